"""Building and caching native kernels: hostile, damaged, missing and busy places, compilers that are not there or cannot."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from optc.runtime import native_build
from optc.runtime.backend import BackendUnavailable, Residents
from optc.runtime.native import NATIVE
from optc.runtime.native_cache import CacheUnusable, read_entry, write_entry
from tests.backends import native_kernels as k
from tests.backends.processes import exit_code, in_child

GXX = shutil.which("g++") or shutil.which("c++")
pytestmark = pytest.mark.skipif(GXX is None, reason="no C++ compiler")
_NUMBERS = itertools.count()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of this test's own."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("OPTC_CACHE_DIR", str(directory))
    yield directory
    native_build._load_once.cache_clear()


class Compiler:
    """A compiler script that writes down what it is asked to build, and does `before` first (-O0: builds are all it is for)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._log = folder / "cxx", folder / "log"
        self.becomes("")
        monkeypatch.setenv("CXX", str(self.path))

    def becomes(self, before: str) -> None:
        """Replace what it does before compiling (shell text)."""
        self.path.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$@" >> {self._log}\n{before}\nexec {GXX} "$@" -O0\n')
        self.path.chmod(0o755)
        native_build._identify.cache_clear()

    @property
    def builds(self) -> list[str]:
        """The command lines so far."""
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(tmp_path, monkeypatch)


def works(operation: str = "add") -> None:
    """Prepare and run `θ <- operation(θ, g)`, as a new process would: nothing remembered but the cache."""
    native_build._load_once.cache_clear()
    theta, m = [torch.full((1000,), 2.0)], [torch.zeros(1000)]
    kernel = k.compiled(k.function(operation, k.theta, k.g))
    NATIVE.prepare([kernel], [Residents({"theta": theta, "m": m}, torch.float32, {})])[0].launch(
        {"g": [torch.full((1000,), 3.0)]}, (), (), 1.0
    )
    assert torch.equal(theta[0], torch.full((1000,), {"add": 5.0, "mul": 6.0}[operation]))


def entries(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.so")) if directory.is_dir() else []


def test_a_kernel_is_built_once_and_kept_privately(cache: Path, compiler: Compiler) -> None:
    works()
    works()
    assert len(compiler.builds) == 1
    assert len(entries(cache)) == 1 and len(list(cache.iterdir())) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(entries(cache)[0].stat().st_mode) == 0o600


def test_never_fast_math(cache: Path, compiler: Compiler) -> None:
    works()
    assert not any(word in compiler.builds[0] for word in ("fast-math", "Ofast", "unsafe"))
    assert "-fno-math-errno" in compiler.builds[0]


# --- damaged entries -------------------------------------------------------------------------------------------------------


def truncated(entry: Path) -> None:
    os.truncate(entry, entry.stat().st_size // 2)


def emptied(entry: Path) -> None:
    os.truncate(entry, 0)


def flipped(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)


def made_writable(entry: Path) -> None:
    entry.chmod(0o666)


def linked(entry: Path) -> None:
    entry.rename(entry.with_suffix(".elsewhere"))
    entry.symlink_to(entry.with_suffix(".elsewhere"))


def of_another_kind(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, made_writable, linked, of_another_kind])
def test_a_damaged_entry_is_built_again(cache: Path, compiler: Compiler, damage: Callable[[Path], None]) -> None:
    works()
    (entry,) = entries(cache)
    damage(entry)
    works()
    assert len(compiler.builds) == 2
    works()
    assert len(compiler.builds) == 2, "the entry was not repaired"


def test_a_library_under_another_kernels_name_is_not_loaded(cache: Path, compiler: Compiler) -> None:
    works("add")
    (add,) = entries(cache)
    works("mul")
    (mul,) = set(entries(cache)) - {add}
    shutil.copy(add, mul)
    works("mul")
    assert len(compiler.builds) == 3


def test_a_valid_entry_that_is_no_library_is_built_again(cache: Path, compiler: Compiler) -> None:
    works()
    (entry,) = entries(cache)
    write_entry(cache, entry.stem, b"not a library")
    assert read_entry(cache, entry.stem) == b"not a library"
    works()
    assert len(compiler.builds) == 2


# --- hostile and unusable directories --------------------------------------------------------------------------------------


def world_writable(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)


def group_writable(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o770)


def symbolic_link(cache: Path) -> None:
    (cache.parent / "target").mkdir(mode=0o700)
    cache.symlink_to(cache.parent / "target")


def belongs_to_another(cache: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    cache.mkdir(mode=0o700)
    os.chown(cache, 65534, 65534)


def is_a_file(cache: Path) -> None:
    cache.write_text("")


def below_a_file(cache: Path) -> None:
    cache.with_name("file").write_text("")
    os.environ["OPTC_CACHE_DIR"] = str(cache.with_name("file") / "cache")  # the fixture puts it back


def relative(cache: Path) -> None:
    os.environ["OPTC_CACHE_DIR"] = "some/where"


@pytest.mark.parametrize(
    "prepare",
    [world_writable, group_writable, symbolic_link, belongs_to_another, is_a_file, below_a_file, relative],
)
def test_a_directory_that_cannot_be_trusted_is_not_used(
    cache: Path, compiler: Compiler, prepare: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(cache)
    with pytest.warns(UserWarning, match="OPTC_CACHE_DIR"):
        works()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once, not for every kernel
        works("mul")
    assert len(compiler.builds) == 2
    assert not list(tmp_path.rglob("*.so"))


def test_a_planted_entry_in_a_writable_directory_is_not_loaded(cache: Path, compiler: Compiler) -> None:
    works("add")
    (add,) = entries(cache)
    cache.chmod(0o777)
    with pytest.warns(UserWarning, match="writable by other users"):
        works("add")
    assert len(compiler.builds) == 2
    with pytest.raises(CacheUnusable):
        read_entry(cache, add.stem)


@pytest.mark.parametrize("home", ["read_only", None])
def test_it_works_for_a_user_without_a_home_or_a_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    for name in ("OPTC_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        (tmp_path / home).mkdir(mode=0o555)
        monkeypatch.setenv("HOME", str(tmp_path / home))

    def work() -> None:
        if os.geteuid() == 0:  # to root nothing is read-only: become nobody, who owns nothing
            os.setgid(65534)
            os.setuid(65534)
        elif home is None:
            return  # this user's own cache may be there, and would be used
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            works("add")
            works("mul")
        assert len([w for w in said if "OPTC_CACHE_DIR" in str(w.message)]) == 1

    assert exit_code(in_child(work)) == 0


def test_it_works_where_no_directory_is_known(cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTC_CACHE_DIR")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    native_build._notice.cache_clear()
    with pytest.warns(UserWarning, match="no directory is known .* Set OPTC_CACHE_DIR"):
        works()


# --- several processes, and killed ones ------------------------------------------------------------------------------------


def test_processes_that_build_at_once_all_get_the_kernel(cache: Path, compiler: Compiler) -> None:
    compiler.becomes('[ "$1" = --version ] || sleep 1')  # so that no one is finished when the last begins
    children = [in_child(works) for _ in range(4)]
    assert [exit_code(child) for child in children] == [0] * 4
    assert len(compiler.builds) == 4, "they did not build at once"
    assert len(entries(cache)) == 1 and len(list(cache.iterdir())) == 1


def test_a_killed_build_leaves_nothing_that_is_loaded(cache: Path, compiler: Compiler) -> None:
    started = cache.parent / "started"
    compiler.becomes(f'[ "$1" = --version ] || {{ echo $$ > {started}.part; mv {started}.part {started}; sleep 30; }}')
    child = in_child(works)
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    os.killpg(int(started.read_text()), signal.SIGKILL)
    assert entries(cache) == []
    compiler.becomes("")
    works()
    assert len(entries(cache)) == 1


def test_half_written_entries_are_ignored_and_removed_when_old(cache: Path, compiler: Compiler) -> None:
    works("add")
    old, young = cache / ".abc.1.tmp", cache / ".abc.2.tmp"
    for file in (old, young):
        file.write_bytes(b"\x7fELF half")
    os.utime(old, (0, 0))
    works("mul")
    assert not old.exists() and young.exists()
    assert len(entries(cache)) == 2


# --- keys ------------------------------------------------------------------------------------------------------------------


def test_another_cpu_or_compiler_gets_its_own_build(cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    works()
    with monkeypatch.context() as patch:
        patch.setattr(native_build, "machine_identity", lambda: "another CPU")
        works()
        assert len(entries(cache)) == 2
    compiler.becomes('[ "$1" = --version ] && { echo "g++ 99"; exit 0; }')
    works()
    assert len(entries(cache)) == 3


def test_the_identity_of_this_machine_names_its_features() -> None:
    identity = native_build.machine_identity()
    assert sys.platform in identity
    if Path("/proc/cpuinfo").exists():
        assert "flags" in identity or "Features" in identity or "isa" in identity


def test_the_prelude_is_part_of_the_key(cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    works()
    changed = native_build.prelude() + "// changed\n"
    monkeypatch.setattr(native_build, "prelude", lambda: changed)
    works()
    assert len(entries(cache)) == 2


def test_libraries_do_not_take_each_others_place_in_the_loader(cache: Path) -> None:
    # closing descriptors, as daemons do, makes the next library's name in /proc/self/fd one that was used before
    works("add")
    with os.scandir("/proc/self/fd") as found:
        ours = [int(f.name) for f in found if "memfd:optc" in _target(f.path)]
    for descriptor in ours:
        os.close(descriptor)
    works("mul")


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


# --- compilers -------------------------------------------------------------------------------------------------------------


def test_without_a_compiler_the_message_says_what_to_install(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendUnavailable, match=r"no C\+\+ compiler on PATH .*apt install g\+\+"):
        works()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(BackendUnavailable, match="no-such-compiler"):
        works()


@pytest.mark.parametrize("word", ["problem", "k.cpp:3:1: error:", "k.cpp:3:1: fatal error:", "ld: undefined reference to"])
def test_the_first_lines_of_a_compilers_error_are_shown(cache: Path, compiler: Compiler, word: str) -> None:
    warned = 0 if word == "problem" else 7
    compiler.becomes(f'[ "$1" = --version ] || {{ (seq -f "warning %g" {warned}; seq -f "{word} %g" 8) >&2; exit 1; }}')
    with pytest.raises(BackendUnavailable, match=f"the kernel: {word} 1\n{word} 2\n{word} 3\n{word} 4\n{word} 5$"):
        works()


def test_a_failure_is_not_tried_again_in_the_same_process(cache: Path, compiler: Compiler) -> None:
    compiler.becomes('[ "$1" = --version ] || exit 1')
    kernel = dataclasses.replace(k.compiled(k.function("add", k.theta, k.g)), native=f"// {next(_NUMBERS)}")
    residents = Residents({"theta": [torch.ones(3)], "m": [torch.ones(3)]}, torch.float32, {})
    counts = []
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            NATIVE.prepare([kernel], [residents])
        counts.append(len(compiler.builds))
    assert counts[0] == counts[1] > 0


def test_a_build_that_takes_too_long_is_killed_with_its_children(
    cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.becomes(f'[ "$1" = --version ] || {{ sleep 50 & echo $! > {cache.parent}/child; wait; }}')
    monkeypatch.setattr(native_build, "BUILD_LIMIT", 0.5)
    start = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"stopped after 0\.5 s"):
        works()
    assert time.monotonic() - start < 10
    child = Path(f"/proc/{(cache.parent / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


@pytest.mark.parametrize("missing", ["-fopenmp", "-march=native"])
def test_a_compiler_that_lacks_something_is_used_without_it(cache: Path, compiler: Compiler, missing: str) -> None:
    compiler.becomes(f'for a in "$@"; do [ "$a" = {missing} ] && {{ echo "no {missing}" >&2; exit 1; }}; done')
    works()
    assert missing not in compiler.builds[-1].split()
    count = len(compiler.builds)
    works()
    assert len(compiler.builds) == count, "the lesser build was not found again"
