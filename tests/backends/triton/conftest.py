"""Triton without a GPU: kernels run in its interpreter here, and are compiled ahead of time in a child process."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def interpreted() -> None:
    """For tests that run kernels on CPU tensors."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported")
