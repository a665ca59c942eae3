"""The names of generated modules."""

from __future__ import annotations

import keyword
import re
from pathlib import PurePath


def module_name(name: str) -> str:
    """`SimplifiedAdEMAMix` -> `simplified_ademamix`, `NAdam` -> `nadam`, `SGDW` -> `sgdw`: as a spec's file would be called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()


def file_module_name(file: str) -> str | None:
    """The name that a spec file gives its module: `specs/adam/adamw.opt` is `adamw`; None where that is no module name.

    `__init__` is none either: it would take the place of a package's index.
    """
    stem = PurePath(file).stem
    usable = file.endswith(".opt") and re.fullmatch(r"_?[a-z][a-z0-9_]*", stem) and not keyword.iskeyword(stem)
    return stem if usable else None
