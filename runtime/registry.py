"""The generated optimizers by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

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
    folded = {_folded(known): known for known in listed}
    known = folded.get(_folded(name))
    if known is None:
        near = [folded[close] for close in difflib.get_close_matches(_folded(name), folded, 3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(listed)}"
        raise ValueError(f"no optimizer is called {name!r}: {hint}")
    found: type[Optimizer] = getattr(importlib.import_module(f"optc.generated.{listed[known]}"), known)
    return found


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def _listed() -> Mapping[str, str]:
    """`optc.generated.OPTIMIZERS`: each name with its module."""
    listed: Mapping[str, str] = importlib.import_module("optc.generated").OPTIMIZERS
    return listed
