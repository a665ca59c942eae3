"""Digests: of texts, and of the compiler itself (its code, grammar and templates), so that stale output is recognised."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PARTS = ("dsl", "compiler")
_SUFFIXES = (".py", ".lark", ".j2")
_TELL_ONLY = {
    "aot.py", "assembly.py", "errors.py", "explain.py", "generated_index.py", "instant.py", "interpret.py", "latex.py",
    "mistakes.py", "schedule_facts.py", "show.py", "show_plan.py", "show_schedule.py", "show_storage.py",
    "storage_facts.py", "write.py",
}  # fmt: skip
"""Files that print, check or store, and cannot change a generated module."""
_TELL_ONLY_FOLDERS = {"__pycache__", "site"}


def text_digest(text: str) -> str:
    """sha256 of a text, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@cache
def compiler_digest() -> str:
    """sha256 over every file that can change what is generated."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for part in _PARTS:
        for path in sorted((root / part).rglob("*")):
            place = path.relative_to(root)
            if path.suffix in _SUFFIXES and path.name not in _TELL_ONLY and not _TELL_ONLY_FOLDERS & set(place.parts):
                digest.update(place.as_posix().encode())
                digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()
