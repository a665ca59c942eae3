"""What tests of several backends share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from optc.runtime import native_build


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, so that tests can share a machine; the tests of threads ask for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    """The native kernels of a test are built from the text that it puts in place, and other tests do not get them."""
    native_build._load_once.cache_clear()
    yield
    native_build._load_once.cache_clear()
