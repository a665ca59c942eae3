"""Whose line a warning names."""

from __future__ import annotations

import sys

_OURS = frozenset({"optc", "torch", "contextlib"})
"""Packages whose frames stand between an optimizer and whoever calls it: methods are wrapped by decorators of PyTorch."""


def stacklevel() -> int:
    """The `stacklevel` with which `warnings.warn`, called where this is, names the line outside of PyTorch and optc.

    `skip_file_prefixes` says the same from Python 3.12 on.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    return level
