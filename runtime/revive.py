"""Instances for unpickling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer


def bare(origin: type[Optimizer] | str) -> Optimizer:
    """An instance without anything in it, of a class or of the class that a spec's text compiles to."""
    if not isinstance(origin, str):
        return origin.__new__(origin)
    from optc.compiler.instant import compile_class

    return bare(compile_class(origin))
