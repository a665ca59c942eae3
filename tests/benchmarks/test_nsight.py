"""What Nsight Compute prints is read as it is, and where it measures nothing, no number is made up."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_profile
from benchmarks.gpu_profile import PROFILED, rows
from benchmarks.nsight import KernelBytes, NoCounters, NotMeasured, failure, find_ncu, parse_raw_csv, profile
from benchmarks.workloads import in_64, step_traffic

HEADER = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",'
    '"dram__bytes_read.sum","dram__bytes_write.sum"'
)
LAUNCH = '"{0}","4242","python3.12","127.0.0.1","{1}","1","7","(128, 1, 1)","(65536, 1, 1)","0","9.0","{2}","{3}"'
PERMISSION = (
    "==PROF== Connected to process 4242 (/usr/bin/python3.12)\n"
    "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the target "
    "device 0. For instructions on enabling permissions and to get more information see "
    "https://developer.nvidia.com/ERR_NVGPUCTRPERM\n"
    "==PROF== Disconnected from process 4242\n"
)
LIBRARY = "Failed to initialize the profiler: LibraryNotLoaded. Check that a compatible driver library is loaded.\n"


def output(units: tuple[str, str], *launches: tuple[str, str, str]) -> str:
    """All that a run prints."""
    lines = [
        "==PROF== Connected to process 4242 (/usr/bin/python3.12)",
        'a line of the program\'s own, with "quotes", and commas',
        *(f'==PROF== Profiling "{name}" - {i}: 0%....50%....100% - 1 pass' for i, (name, _, _) in enumerate(launches)),
        "==PROF== Disconnected from process 4242",
        HEADER,
        '"","","","","","","","","","","",' + ",".join(f'"{unit}"' for unit in units),
        *(LAUNCH.format(i, *launch) for i, launch in enumerate(launches)),
        "==WARNING== Some remark behind the table",
    ]
    return "\n".join(lines) + "\n"


def test_bytes_with_thousands_separators_of_several_kernels() -> None:
    text = output(("byte", "byte"), ("step_triton", "8,589,934,592", "6,442,450,944"), ("void f<int, 4>(int)", "4096", "0"))
    assert parse_raw_csv(text) == (
        KernelBytes("step_triton", 8589934592.0, 6442450944.0),
        KernelBytes("void f<int, 4>(int)", 4096.0, 0.0),
    )


@pytest.mark.parametrize(
    ("unit", "factor"), [("byte", 1.0), ("Kbyte", 1e3), ("Mbyte", 1e6), ("Mbytes", 1e6), ("Gbyte", 1e9), ("Tbyte", 1e12)]
)
def test_each_counter_has_its_own_unit(unit: str, factor: float) -> None:
    (launch,) = parse_raw_csv(output((unit, "byte"), ("step_triton", "1,234.5", "7")))
    assert launch.read == pytest.approx(1234.5 * factor, rel=1e-12)
    assert launch.written == 7.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (output(("byte", "sector"), ("step_triton", "1", "2")), "dram__bytes_write.sum in 'sector'"),
        (output(("byte", "byte"), ("step_triton", "n/a", "2")), "'n/a' for dram__bytes_read.sum"),
        (output(("byte", "byte"), ("step_triton", "1", "nan")), "'nan' for dram__bytes_write.sum"),
        (output(("byte", "byte"), ("step_triton", "1", "2")).replace("bytes_write.sum", "other"), "no dram__bytes_write.sum"),
        (
            output(("byte", "byte"), ("step_triton", "1", "2")).replace('"","","","","","","","","","","","byte","byte"\n', ""),
            "in ''",
        ),
    ],
)
def test_what_is_no_number_of_bytes_is_refused(text: str, said: str) -> None:
    with pytest.raises(NotMeasured, match=said):
        parse_raw_csv(text)


@pytest.mark.parametrize("text", ["", PERMISSION, LIBRARY, "==WARNING== No kernels were profiled.\n", HEADER + "\n"])
def test_output_without_launches_has_none(text: str) -> None:
    assert parse_raw_csv(text) == ()


@pytest.mark.parametrize(
    ("text", "said", "final"),
    [
        (PERMISSION, "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)", True),
        (LIBRARY, "ncu finds no driver library for the counters (LibraryNotLoaded)", True),
        ("==ERROR== The application returned an error code (1).\n", "The application returned an error code (1).", False),
        (
            "Traceback …\ntorch.OutOfMemoryError: CUDA out of memory\n==PROF== Disconnected\n",
            "torch.OutOfMemoryError: CUDA",
            False,
        ),
        ("==PROF== Connected\n==WARNING== No kernels were profiled.\n", "No kernels were profiled.", False),
        ("", "it said nothing", False),
    ],
)
def test_a_run_without_numbers_says_why(text: str, said: str, final: bool) -> None:
    error = failure(text, 9)
    assert said in str(error)
    assert isinstance(error, NoCounters) == final


def test_the_path_goes_first_and_else_the_newest_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_ncu(tmp_path) is None
    for name in ("2024.3.2", "2025.10.0", "2025.3.1"):
        executable(tmp_path / "opt" / "nvidia" / "nsight-compute" / name / "ncu", "")
    assert find_ncu(tmp_path) == tmp_path / "opt/nvidia/nsight-compute/2025.10.0/ncu"
    assert find_ncu(tmp_path) != find_ncu(tmp_path / "opt")
    on_path = executable(tmp_path / "bin" / "ncu", "")
    assert find_ncu(tmp_path) == on_path


def executable(path: Path, script: str) -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    ncu = executable(tmp_path / "ncu", f"sh -c 'echo $$ > {shlex.quote(str(marker))}; sleep 60; true'\n")
    start = time.monotonic()
    with pytest.raises(NoCounters, match="no end within 1 s"):
        profile(ncu, ["program"], 1.0, tmp_path, os.environ)
    assert time.monotonic() - start < 20
    process = int(marker.read_text())
    for _ in range(100):
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"process {process} still runs")


def test_a_program_that_fails_after_the_table_was_printed_gives_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(output(("byte", "byte"), ("k", "1", "2")) + "==ERROR== lost it\n", encoding="utf-8")
    ncu = executable(tmp_path / "ncu", f"cat {shlex.quote(str(tmp_path / 'text'))}\nexit 3\n")
    with pytest.raises(NotMeasured, match="ended with code 3: lost it"):
        profile(ncu, [], 20.0, tmp_path, os.environ)


def reporting(tmp_path: Path, share: float) -> Path:
    """A stand-in for ncu that runs nothing and reports `share` of each plan's bytes, half of it read."""
    counts = [step_traffic(case, precision).total * share * 6400 / 2 for case, precision in PROFILED]
    for i, count in enumerate(counts):
        text = output(("byte", "byte"), ("a", f"{count:,.0f}", "0"), ("b", "0", f"{count:,.0f}"))
        (tmp_path / str(i)).write_text(text, encoding="utf-8")
    script = f'while [ "$1" != benchmarks.gpu_profile ]; do shift; done; cat {shlex.quote(str(tmp_path))}/$2\n'
    return executable(tmp_path / "ncu", script)


@pytest.mark.parametrize(("share", "met"), [(1.0, True), (0.975, True), (1.025, True), (0.965, False), (1.035, False)])
def test_rows_are_judged_against_the_plan(tmp_path: Path, share: float, met: bool) -> None:
    found = list(rows(6400, "cuda", time.monotonic() + 60, reporting(tmp_path, share)))
    assert [row.met for row in found] == [met] * len(PROFILED)
    assert all(row.measured.startswith(f"{100 * share:.1f} % of plan") and "2 kernels" in row.measured for row in found)
    assert found[0].numbers["planned"] == 28 * 6400


def test_counters_that_may_not_be_read_are_asked_for_once_and_no_number_is_shown(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(PERMISSION, encoding="utf-8")
    place = shlex.quote(str(tmp_path))
    ncu = executable(tmp_path / "ncu", f"echo run >> {place}/runs; cat {place}/text; exit 1\n")
    found = list(rows(6400, "cuda", time.monotonic() + 60, ncu))
    assert (tmp_path / "runs").read_text() == "run\n"
    assert len(found) == len(PROFILED)
    assert all(row.met is None and not row.numbers and "ERR_NVGPUCTRPERM" in row.measured for row in found)


def test_no_run_starts_when_the_time_is_over(tmp_path: Path) -> None:
    ncu = executable(tmp_path / "ncu", f"touch {shlex.quote(str(tmp_path / 'started'))}\n")
    found = list(rows(6400, "cuda", time.monotonic() - 1, ncu))
    assert {row.measured for row in found} == {"not measured: no time was left"}
    assert not (tmp_path / "started").exists()


def test_the_profiled_program_runs_as_it_is_called(tmp_path: Path) -> None:
    """On the CPU, under a stand-in that starts the program and reports nothing."""
    script = 'while [ "$1" != ' + shlex.quote(sys.executable) + " ]; do shift; done\n"
    ncu = executable(tmp_path / "ncu", script + f'"$@" && touch {shlex.quote(str(tmp_path / "ended"))}\n')
    first = next(rows(6400, "cpu", time.monotonic() + 60, ncu))
    assert (tmp_path / "ended").exists(), first.measured
    assert first.measured == "not measured: ncu ended with code 0: it said nothing"


def test_what_may_stay_in_a_cache_is_below_one_percent_of_every_step() -> None:
    elements = sum(n for (n,) in in_64(gpu_profile.ELEMENTS))
    assert min(step_traffic(case, precision).total for case, precision in PROFILED) * elements * 0.01 > 60e6
