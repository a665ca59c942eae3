"""C++ text → a loaded library: find a compiler, build on first use, keep the result in the user's cache.

Nothing here knows optimizers or torch. One library per (text, macros); about 0.3 s each for the first process that needs it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optc.runtime.backend import BackendUnavailable
from optc.runtime.native_cache import CacheUnusable, cache_directory, read_entry, write_entry

BUILD_LIMIT = 60.0  # seconds
_ERROR = re.compile(r"\berror:|undefined reference")
COMPILERS = ("c++", "g++", "clang++")

# Never -ffast-math (nor -Ofast, -funsafe-math-optimizations): they replace sqrt and division by estimates, and at load turn on
# flush-to-zero for the whole process. Products and sums are contracted where the text says so (`fma` in `prelude.hpp`).
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd")
_SHARED = ("-shared", "-fPIC", "-fvisibility=hidden")
_NATIVE = ("-march=native",)
_THREADS = ("-fopenmp",)
LADDER = (
    (*_NATIVE, *_THREADS),
    _THREADS,  # a compiler that does not know this CPU
    _NATIVE,  # no OpenMP: one thread
    (),
)
"""Option sets, best first: the first that compiles is used."""

_ARGUMENTS = (
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.c_int32,
)  # fmt: skip
_PASSES_ARGUMENTS = (
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
    ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
    ctypes.c_int64, ctypes.c_int32, ctypes.c_int32,
)  # fmt: skip
_MATRICES_ARGUMENTS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class _Compiler:
    """A command and what it says it is."""

    command: tuple[str, ...]
    identity: str


def load_kernel(text: str, macros: Mapping[str, str]) -> Callable[..., None]:
    """The function `optc_run` (see `prelude.hpp`) of a kernel's text, built if no process of this user has built it yet.

    `macros` are those that the prelude lists, without OPTC_KEY. Raises `BackendUnavailable` where it cannot be built.
    """
    entry: Callable[..., None] = load_library(kernel_source(text), macros).optc_run
    entry.argtypes, entry.restype = _ARGUMENTS, None  # type: ignore[attr-defined]
    return entry


def load_passes(text: str, macros: Mapping[str, str]) -> Callable[..., None]:
    """The function `optc_run_passes` (see `passes.hpp`) of a kernel of several passes; otherwise as `load_kernel`."""
    entry: Callable[..., None] = load_library(kernel_source(text, passes=True), macros).optc_run_passes
    entry.argtypes, entry.restype = _PASSES_ARGUMENTS, None  # type: ignore[attr-defined]
    return entry


def load_matrices(text: str, macros: Mapping[str, str]) -> tuple[Callable[..., None], bool]:
    """The same of a kernel that knows rows and columns, and whether it walks along them in this variant."""
    library = load_library(kernel_source(text, passes=True, matrices=True), macros)
    entry: Callable[..., None] = library.optc_run_passes
    entry.argtypes, entry.restype = (*_PASSES_ARGUMENTS, *_MATRICES_ARGUMENTS), None  # type: ignore[attr-defined]
    return entry, bool(ctypes.c_int32.in_dll(library, "optc_by_rows").value)


def kernel_source(text: str, passes: bool = False, matrices: bool = False) -> str:
    """All that is compiled for a kernel's text: the fixed parts for one pass, for several, for rows and columns; the text."""
    coded = ("Kept<", "RowCodes<")
    wanted = (("draws", ("uniform(", "Dither{")), ("bits", (*coded, "Signs<")), ("codes", coded), ("pairs", ("joined<",)))
    more = "".join(_part(part) for part, signs in wanted if any(sign in text for sign in signs))
    if not passes:
        return prelude() + more + text
    known = "#define OPTC_MATRICES\n" if matrices else ""
    behind = "".join(_part(part) for part, sign in (("signs", "Signs<"), ("row_codes", "RowCodes<")) if sign in text)
    return f"#define OPTC_PASSES\n{known}{prelude()}{more}{reductions(matrices)}{behind}{text}"


def load_library(source: str, macros: Mapping[str, str]) -> ctypes.CDLL:
    """The library of a text that exports `const char optc_key[65] = OPTC_KEY`; built, and raises, as `load_kernel` says."""
    outcome = _load_once(source, tuple(sorted(macros.items())))
    if isinstance(outcome, str):
        raise BackendUnavailable(outcome)
    return outcome


def prelude() -> str:
    """The fixed C++ text that comes before every kernel."""
    return "".join(map(_part, ("prelude", "elementary", "powers")))


def reductions(matrices: bool = False) -> str:
    """The fixed C++ text that comes between the prelude and a kernel of several passes, with or without rows and columns."""
    return "".join(map(_part, ("reductions", "matrices", "stages", "passes") if matrices else ("reductions", "passes")))


@functools.cache
def _part(name: str) -> str:
    return Path(__file__).with_name(f"{name}.hpp").read_text(encoding="utf-8")


@functools.cache
def _load_once(source: str, macros: tuple[tuple[str, str], ...]) -> ctypes.CDLL | str:
    """The library, or why there is none: a failure is not tried again in this process."""
    try:
        return _load(source, macros)
    except BackendUnavailable as error:
        return str(error)


def _load(source: str, macros: Sequence[tuple[str, str]]) -> ctypes.CDLL:
    compiler = find_compiler()
    attempts = _attempts(compiler, source, macros)
    directory: Path | None = None
    try:
        directory = cache_directory()
        for key, _ in attempts:
            library = read_entry(directory, key)
            loaded = None if library is None else _open(library, key)
            if loaded is not None:
                return loaded
    except CacheUnusable as error:
        directory = None
        _notice(str(error))
    key, library = _build_best(compiler, source, attempts)
    if directory is not None:
        try:
            write_entry(directory, key, library)
        except CacheUnusable as error:
            _notice(str(error))
    loaded = _open(library, key)
    if loaded is None:
        raise BackendUnavailable("the compiled kernel cannot be loaded; is the compiler's runtime library (libgomp) installed?")
    return loaded


# --- the compiler -------------------------------------------------------------------------------------------------------------


def find_compiler() -> _Compiler:
    """`$CXX`, or the first of c++, g++, clang++ on the path. Raises `BackendUnavailable`."""
    chosen = os.environ.get("CXX")
    candidates = [tuple(shlex.split(chosen))] if chosen else [(name,) for name in COMPILERS]
    for command in candidates:
        path = shutil.which(command[0]) if command else None
        if path is not None:
            return _identify((path, *command[1:]), os.stat(path).st_mtime_ns)
    cause = f"the compiler in CXX ({chosen}) was not found" if chosen else f"no C++ compiler on PATH ({', '.join(COMPILERS)})"
    raise BackendUnavailable(f"{cause}; install one: `apt install g++`, `dnf install gcc-c++` or `xcode-select --install`")


@functools.cache
def _identify(command: tuple[str, ...], modified: int) -> _Compiler:
    """`modified`, the program's time stamp, is there to ask anew when it was replaced."""
    code, output, errors = _run([*command, "--version"], Path("/"), 20.0)
    if code != 0:
        raise BackendUnavailable(f"`{command[0]} --version` failed: {_head(errors or output)}")
    return _Compiler(command, output)


@functools.cache
def machine_identity() -> str:
    """What `-march=native` and the libraries depend on: the CPU's model and features, the system and its C library."""
    parts = [sys.platform, platform.machine()]
    if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
        parts.append(os.confstr("CS_GNU_LIBC_VERSION") or "")
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break  # the first processor's features stand for all
                if line.split(":")[0].strip() in ("model name", "flags", "Features", "CPU part", "isa"):
                    parts.append(line.strip())
    except OSError:
        pass  # not Linux: the machine's name has to do
    return "\n".join(parts)


def _attempts(compiler: _Compiler, source: str, macros: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(key, options) for every rung of the ladder."""
    defines = [f"-D{name}={value}" for name, value in macros]
    attempts = []
    for rung in LADDER:
        options = [*OPTIONS, *_SHARED, *defines, *rung]
        content = (source, *options, *compiler.command, compiler.identity, machine_identity())
        attempts.append((hashlib.sha256("\0".join(content).encode()).hexdigest(), options))
    return attempts


def _build_best(compiler: _Compiler, source: str, attempts: Sequence[tuple[str, list[str]]]) -> tuple[str, bytes]:
    """The key and library of the first option set that compiles."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="optc-build-") as scratch:
        folder = Path(scratch)
        (folder / "kernel.cpp").write_text(source, encoding="utf-8")
        for key, options in attempts:
            # libraries follow the source: linkers look at them once, in order
            before = [o for o in options if not o.startswith("-l")]
            after = [o for o in options if o.startswith("-l")]
            define = f'-DOPTC_KEY="{key}"'
            command = [*compiler.command, *before, define, "-o", "kernel.so", "kernel.cpp", *after]
            code, output, errors = _run(command, folder, BUILD_LIMIT)
            if code == 0:
                return key, (folder / "kernel.so").read_bytes()
            messages.append(errors or output)
    raise BackendUnavailable(f"{compiler.command[0]} cannot compile the kernel: {_head(messages[-1])}")


def _run(command: Sequence[str], folder: Path, limit: float) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; it and its children are killed after `limit` seconds."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BackendUnavailable(f"cannot run {command[0]}: {error.strerror}") from error
    with process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BackendUnavailable(f"{command[0]} was stopped after {limit:g} s") from error
            raise
    return process.returncode, output, errors


def _head(text: str) -> str:
    """The first lines that say what is wrong: those from the first error on, for warnings and their notes come before it."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if _ERROR.search(line)), 0)
    return "\n".join(lines[first : first + 5]) or "no message"


# --- loading ------------------------------------------------------------------------------------------------------------------


def _open(library: bytes, key: str) -> ctypes.CDLL | None:
    """A library given as bytes, or None where it does not load or is not the one asked for."""
    for place in (_in_memory, _in_file):
        try:
            loaded = place(library)
            # the loader knows libraries by name: be sure that this is not one loaded earlier under the same name
            if (ctypes.c_char * len(key)).in_dll(loaded, "optc_key").raw == key.encode():
                return loaded
        except (OSError, ValueError):
            continue
    return None


def _in_memory(library: bytes) -> ctypes.CDLL:
    """Load from an anonymous file (Linux): what is loaded is what was checked. Its descriptor, and so its name, stays taken."""
    descriptor = os.memfd_create("optc", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(library)
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _in_file(library: bytes) -> ctypes.CDLL:
    """Load from a file in a new private directory, which the loader does not need afterwards."""
    with tempfile.TemporaryDirectory(prefix="optc-load-") as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(library)
        return ctypes.CDLL(str(path))


@functools.cache
def _notice(reason: str) -> None:
    """Say once why kernels are compiled anew in every process."""
    warnings.warn(
        f"optc: {reason}; native kernels are compiled again by every process. Set OPTC_CACHE_DIR to a private directory.",
        stacklevel=2,
    )
