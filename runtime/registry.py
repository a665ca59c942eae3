"""The generated optimizers by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from optc.runtime.names import found_name
from optc.runtime.optimizer import Optimizer


def available() -> tuple[str, ...]:
    """The names that `create` knows, as they are written in the specs."""
    return tuple(_listed())


def create(name: str, params: Any, **hypers: Any) -> Optimizer:
    """The optimizer called `name`, over `params`. Case, `_`, `-` and spaces in the name do not count.

    Raises ValueError for an unknown name, with the nearest known ones; otherwise what the optimizer's class raises.
    """
    return lookup(name)(params, **hypers)


def lookup(name: str) -> type[Optimizer]:
    """The class called `name`. Raises ValueError as `create` does."""
    listed = _listed()
    known = found_name(name, listed, "optimizer")
    found: type[Optimizer] = getattr(importlib.import_module(f"optc.generated.{listed[known]}"), known)
    return found


def _listed() -> Mapping[str, str]:
    """`optc.generated.OPTIMIZERS`: each name with its module."""
    listed: Mapping[str, str] = importlib.import_module("optc.generated").OPTIMIZERS
    return listed
