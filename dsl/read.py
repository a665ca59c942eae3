"""Spec files: from a path to a `Source`."""

from __future__ import annotations

import unicodedata
from os import PathLike, fspath
from pathlib import Path

from optc.dsl.errors import Diagnostic, OptcError, SpecError
from optc.dsl.scan import MAX_CHARACTERS
from optc.dsl.source import Source, Span

_MAX_BYTES = 4 * MAX_CHARACTERS


def read(path: str | PathLike[str]) -> Source:
    """Read a spec file: UTF-8, with or without a byte order mark, any of the usual line ends, as NFC.

    Raises OptcError where the file cannot be read or is too large, SpecError (at the place of the byte) where it is not UTF-8.
    """
    name = fspath(path)
    return decode(_bytes(Path(path), name), name)


def decode(data: bytes, name: str) -> Source:
    """The bytes of a spec as a `Source`. Raises OptcError or SpecError like `read`."""
    if len(data) > _MAX_BYTES:
        raise OptcError(f"{name}: error: the file is larger than {_MAX_BYTES} bytes; a spec is about a page")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise OptcError(f"{name}: error: the file is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8-sig", errors="replace")
        at = len(error.object[: error.start].decode("utf-8"))  # counted behind the byte order mark, as the codec does
        message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise SpecError(
            Source(name, text), [Diagnostic("encoding", message, Span(at, at + 1), "save the file as UTF-8")]
        ) from None
    return Source(name, normalised(text))


def normalised(text: str) -> str:
    """The text as `Source` should hold it: no byte order mark, line ends as `\\n`, NFC."""
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff").replace("\r\n", "\n"))


def _bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise OptcError(f"{name}: error: this is a directory; name a spec file (`*.opt`) in it")
        if path.exists() and not path.is_file():
            raise OptcError(f"{name}: error: this is no regular file")
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise OptcError(f"{name}: error: there is no such file") from None
    except PermissionError:
        raise OptcError(f"{name}: error: no permission to read the file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise OptcError(f"{name}: error: the file cannot be read ({getattr(error, 'strerror', None) or error})") from None
