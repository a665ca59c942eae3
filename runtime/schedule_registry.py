"""The generated schedules by name, and schedules of one's own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optc.runtime.names import found_name
from optc.runtime.schedules import Schedule


def available() -> tuple[str, ...]:
    """The names of the classes of the shipped schedules."""
    return tuple(_listed())


def schedule(spec: str | Path, /, **hypers: Any) -> Schedule:
    """A schedule: a shipped one by name, one of an `.opt` file or its text, or a chain.

        schedule("cosine", T=1000, warmup=100)
        schedule("my.opt", T=1000)
        schedule("ramp(T = 100, first = 0.1) for 100, cosine(T = 900)")

    Case, `_`, `-` and spaces in a name do not count. Raises ValueError for an unknown name, with the nearest ones, and for
    hypers out of range; TypeError for a hyper that there is not, and for those of a chain, which has them in its text;
    SpecError for mistakes in a text.
    """
    if not isinstance(spec, str | Path):
        raise TypeError(f"a schedule is a name, a path to an .opt file, its text or a chain, not {spec!r}"[:200])
    if isinstance(spec, str) and _is_name(spec):
        return lookup(spec)(**hypers)
    from optc.compiler.instant import compile_schedule

    made = compile_schedule(spec)
    if hypers and not made.hypers and "\n" not in str(spec) and not str(spec).endswith(".opt"):
        raise TypeError(_in_text(str(spec), *next(iter(hypers.items()))))
    return made(**hypers)


def lookup(name: str) -> type[Schedule]:
    """The class of a shipped schedule. Raises ValueError as `schedule` does."""
    listed = _listed()
    known = found_name(name, listed, "schedule")
    found: type[Schedule] = getattr(importlib.import_module(f"optc.generated.schedules.{listed[known]}"), known)
    return found


def _in_text(text: str, key: str, value: Any) -> str:
    """Why a chain takes no keyword."""
    if re.search(rf"\b{re.escape(key)}\s*=", text):
        return f"{key} is given in {text!r} and again as a keyword: leave out the keyword, or change what stands there"
    return f"{key} is given as a keyword, but {text!r} has hypers in brackets: write ({key} = {value!r}) behind a name there"


def _is_name(spec: str) -> bool:
    plain = spec.replace("_", "").replace("-", "").replace(" ", "")
    return plain.isalnum() and not Path(spec).is_file()


def _listed() -> Mapping[str, str]:
    listed: Mapping[str, str] = importlib.import_module("optc.generated.schedules").SCHEDULES
    return listed
