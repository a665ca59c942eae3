"""Nsight Compute's command line: where it is, what it is asked, and what its CSV says."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
OPTIONS = (
    *("--csv", "--page", "raw", "--print-units", "base"),
    *("--metrics", f"{READ},{WRITTEN}"),
    *("--profile-from-start", "off"),  # the program says where the step begins and ends
    *("--target-processes", "application-only"),
    *("--clock-control", "none"),
    *("--cache-control", "all"),  # every kernel starts with empty caches, so all that it reads comes from memory
)
PLACES = ("usr/local/cuda*/bin/ncu", "opt/nvidia/nsight-compute/*/ncu")
_UNITS = {"byte": 1.0, "kbyte": 1e3, "mbyte": 1e6, "gbyte": 1e9, "tbyte": 1e12}
_EXPLANATIONS = {
    "ERR_NVGPUCTRPERM": "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)",
    "LibraryNotLoaded": "ncu finds no driver library for the counters (LibraryNotLoaded)",
}


class NotMeasured(RuntimeError):
    """There is no number; the message says why."""


class NoCounters(NotMeasured):
    """There will be none in further runs on this machine either."""


@dataclass(frozen=True, slots=True)
class KernelBytes:
    """What one launch moved between L2 and memory."""

    name: str
    read: float
    written: float


def find_ncu(root: Path = Path("/")) -> Path | None:
    """The `ncu` on the PATH, else the newest in the usual places below `root`."""
    if found := shutil.which("ncu"):
        return Path(found)
    installed = [path for pattern in PLACES for path in root.glob(pattern) if os.access(path, os.X_OK)]
    return max(installed, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.as_posix())], default=None)


def parse_raw_csv(text: str) -> tuple[KernelBytes, ...]:
    """The launches in the output of `ncu --csv --page raw`; none where it has no table.

    The table may stand between other lines (`==PROF== …`, what the program prints). Its second line holds the units;
    numbers may have thousands separators. Raises NotMeasured for a counter that is missing, no number or of another unit.
    """
    rows = csv.reader(line for line in text.splitlines() if line.startswith('"'))
    header = next((row for row in rows if "Kernel Name" in row), None)
    if header is None:
        return ()
    lines = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
    units = lines.pop(0) if lines and not lines[0]["Kernel Name"] else {}
    return tuple(KernelBytes(line["Kernel Name"], _value(line, units, READ), _value(line, units, WRITTEN)) for line in lines)


def _value(line: Mapping[str, str], units: Mapping[str, str], metric: str) -> float:
    text, unit = line.get(metric), units.get(metric, "")
    if text is None:
        raise NotMeasured(f"ncu gave no {metric}")
    factor = _UNITS.get(unit.lower().removesuffix("s"))
    if factor is None:
        raise NotMeasured(f"ncu gave {metric} in {unit!r}, which is no unit of bytes")
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise NotMeasured(f"ncu gave {text!r} for {metric}")
    return factor * number


def failure(text: str, code: int) -> NotMeasured:
    """Why a run left no numbers, from all that it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for sign, explanation in _EXPLANATIONS.items():
        if any(sign in line for line in lines):
            return NoCounters(explanation)
    errors = [line.removeprefix("==ERROR==").strip() for line in lines if line.startswith("==ERROR==")]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unavailable)\b", line)]
    said = (*raised[-1:], *errors, *(line.removeprefix("==WARNING==").strip() for line in lines[-1:]), "it said nothing")
    return NotMeasured(f"ncu ended with code {code}: {said[0]}")


def profile(ncu: Path, program: Sequence[str], seconds: float, cwd: Path, env: Mapping[str, str]) -> tuple[KernelBytes, ...]:
    """Runs a program under ncu. Raises NotMeasured where that gives no numbers, NoCounters where no other run would either."""
    command = [str(ncu), *OPTIONS, *program]
    plain = {**env, "LC_ALL": "C.UTF-8"}  # a locale of one's own may write 1.234,5
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=plain,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise NoCounters(f"{ncu.name} cannot be run: {error.strerror}") from error
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the program too: it holds memory of the device, and the pipe
        process.communicate()
        raise NoCounters(f"no end within {seconds:.0f} s") from None
    launches = parse_raw_csv(text)
    if process.returncode or not launches:
        raise failure(text, process.returncode)
    return launches
