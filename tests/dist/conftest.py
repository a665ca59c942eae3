"""Crews of two and of four processes, started once for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from tests.dist.crew import Crew

if not dist.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)


@pytest.fixture(scope="session")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.stop()


@pytest.fixture(scope="session")
def four() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.stop()


@pytest.fixture
def brief() -> Iterator[Crew]:
    """Two processes whose collectives give up after a few seconds, for one test alone."""
    crew = Crew(2, timeout=8.0)
    yield crew
    crew.stop()
