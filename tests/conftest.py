"""Settings for all tests: Triton kernels run in its interpreter, unless a GPU is asked for."""

from __future__ import annotations

import os
import sys

import pytest

if "TRITON_INTERPRET" not in os.environ:
    assert "triton" not in sys.modules, "TRITON_INTERPRET is read when triton is imported: set it before"
    os.environ["TRITON_INTERPRET"] = "1"

# Test processes share the cores: a thread that waits for work takes none from the others. Read when OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked slow as well")


def missing_gpu() -> str | None:
    """Why tests for the GPU cannot run here, or None."""
    if os.environ["TRITON_INTERPRET"] == "1":
        return "Triton's interpreter is on: run with TRITON_INTERPRET=0 on a machine with a GPU"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        slow = pytest.mark.skip(reason="slow: run with --full")
        for item in items:
            if "slow" in item.keywords and "gpu" not in item.keywords:
                item.add_marker(slow)
    gpu_items = [item for item in items if "gpu" in item.keywords]
    reason = missing_gpu() if gpu_items else None
    if reason is not None:
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=reason))
