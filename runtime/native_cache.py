"""Where compiled kernels are kept between processes: a private directory, entries that prove they are whole.

What is checked. The directory is opened without following a final symlink, must belong to this user and must be writable by
nobody else; every access then goes through that open descriptor, so that nobody can exchange the directory in between. An entry
is a library followed by the SHA-256 of its key and bytes: truncated files, damaged disks and entries under another's name are
seen and rebuilt. Entries appear by an atomic rename, so a killed build leaves none. The caller gets bytes, which are those that
were checked, and loads these, not the file.

What is not. The digest is no signature: who can already write files as this user can write a valid entry, and could as well
replace the Python files that import it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DIGEST = 64  # hexadecimal digits at the end of an entry
_STALE = 3600.0  # seconds after which a temporary file was left by a process that died


class CacheUnusable(Exception):
    """The cache cannot or must not be used; the message says why."""


def cache_directory() -> Path:
    """`$OPTC_CACHE_DIR`, or a place of its own in the user's cache directory. Raises `CacheUnusable` where neither is known."""
    chosen = os.environ.get("OPTC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        import platformdirs
    except ImportError as error:  # generated code runs on bare machines, where it was only copied to
        raise CacheUnusable(f"no directory is known for compiled kernels ({error})") from error
    return Path(platformdirs.user_cache_dir("optc")) / "native"


def read_entry(directory: Path, key: str) -> bytes | None:
    """The library stored under `key`, or None where there is none or it is not what was written.

    Raises `CacheUnusable` where the directory is not private to this user.
    """
    with _opened(directory) as folder:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for the writer of a pipe
        try:
            descriptor = os.open(_file_name(key), flags, dir_fd=folder)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if _fault(os.fstat(descriptor), stat.S_ISREG) is not None:
                return None
            content = file.read()
    library, digest = content[:-_DIGEST], content[-_DIGEST:]
    return library if digest == _digest(key, library) else None


def write_entry(directory: Path, key: str, library: bytes) -> None:
    """Store a library under `key`, replacing what is there. Raises `CacheUnusable`."""
    with _opened(directory) as folder:
        _remove_stale(folder)
        temporary = f".{key}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(library + _digest(key, library))
            os.rename(temporary, _file_name(key), src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise CacheUnusable(f"cannot write to {directory}: {error.strerror}") from error


def _file_name(key: str) -> str:
    return f"{key}.so"


def _digest(key: str, library: bytes) -> bytes:
    return hashlib.sha256(key.encode() + library).hexdigest().encode()


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """A descriptor of the directory, made if missing, known to be private."""
    if not directory.is_absolute():
        raise CacheUnusable(f"{directory} is not an absolute path")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if os.path.islink(directory) else error.strerror
        raise CacheUnusable(f"cannot use {directory}: {reason}") from error
    try:
        fault = _fault(os.fstat(folder), stat.S_ISDIR)
        if fault is not None:
            raise CacheUnusable(f"{directory} {fault}")
        yield folder
    finally:
        os.close(folder)


def _fault(status: os.stat_result, is_kind: Callable[[int], bool]) -> str | None:
    """Why a file or directory cannot be trusted, or None."""
    if not is_kind(status.st_mode):
        return "is of the wrong kind"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "is writable by other users"
    return None


def _remove_stale(folder: int) -> None:
    """Temporary files of processes that were killed while writing."""
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            try:
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _STALE:
                    os.unlink(name, dir_fd=folder)
            except OSError:
                continue  # another process was faster
