"""What a measurement was made on, without names of hosts or users."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from optc import __version__

PACKAGES = ("torch", "triton", "pytorch_optimizer", "numpy")
PEERS = ("bitsandbytes", "torchao")
"""Listed where they are installed: most measurements do without."""


def machine() -> dict[str, str]:
    """CPU, memory, threads, versions and the load at the start, as short texts."""
    described = {
        "cpu": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
        "threads": f"{torch.get_num_threads()}",
        "memory": _memory(),
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "system": platform.system(),
        "python": platform.python_version(),
        "compiler": _compiler(),
        "optc": __version__,
    }
    for package in (*PACKAGES, *PEERS):
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            if package in PACKAGES:
                described[package] = "not installed"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        described["gpu"] = f"{properties.name}, {memory:.0f} GiB, {properties.multi_processor_count} SMs"
        described["cuda"] = str(torch.version.cuda)
    return described


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _compiler() -> str:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        return "none"
    text = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    return text.splitlines()[0] if text else "unknown"
