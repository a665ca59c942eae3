"""Generated modules on disk: written whole or not at all, only when changed, and told apart from stale or edited ones."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from optc.compiler.digest import compiler_digest, text_digest
from optc.compiler.generated_index import index_text, is_generated
from optc.compiler.module_parts import edited_by_hand
from optc.dsl.errors import OptcError
from optc.dsl.source import Source

_HEADER = re.compile(r"^(spec|compiler)\b.*sha256 ([0-9a-f]{64})$", re.MULTILINE)


def up_to_date(path: Path, source: Source) -> bool:
    """Whether `path` is, unedited, what this compiler makes of `source`."""
    return why_stale(path, source) is None


def why_stale(path: Path, source: Source) -> str | None:
    """None, or one phrase: missing, edited by hand, built from another spec, built by another compiler."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "missing"
    except (OSError, UnicodeDecodeError) as error:
        return f"unreadable ({error})"
    if edited_by_hand(text):
        return "edited by hand"
    found = dict(_HEADER.findall(text))
    if found.get("spec") != text_digest(source.text):
        return "built from another version of its spec"
    if found.get("compiler") != compiler_digest():
        return "built by another version of the compiler"
    return None


def write_text(path: Path, text: str) -> bool:
    """Replace a file's text atomically, if it differs; whether it was written. Raises `OptcError` where it cannot be."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> bool:
    """Replace a file's bytes atomically, if they differ; whether it was written. Raises `OptcError` where it cannot be."""
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OptcError(
            f"cannot write {path}: {error.strerror or error}; choose another folder with -o, or make it writable"
        ) from error
    return True


def write_module(name: str, text: str, directory: Path) -> Path:
    """Write the generated module `name` into `directory`; refuses to overwrite a Python file that optc did not write."""
    path = directory / f"{name}.py"
    if path.is_file() and not is_generated(path):
        raise OptcError(f"{path} exists and was not written by optc; move it away or choose another folder with -o")
    write_text(path, text)
    return path


def write_index(directory: Path) -> Path | None:
    """Write `__init__.py` over all generated modules of a folder, unless the folder has one of its own."""
    path = directory / "__init__.py"
    if path.exists() and not is_generated(path):
        return None
    write_text(path, index_text(directory))
    return path


def stale(directory: Path, sources: Iterable[tuple[str, Source]]) -> list[str]:
    """One line for every (module name, source) whose module is not up to date, and for a stale index."""
    found = []
    for name, source in sources:
        path = directory / f"{name}.py"
        reason = why_stale(path, source)
        if reason is not None:
            found.append(f"{path}: {reason}")
    index = directory / "__init__.py"
    if index.exists() and is_generated(index) and index.read_text(encoding="utf-8") != index_text(directory):
        found.append(f"{index}: does not match the modules beside it")
    return found


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
