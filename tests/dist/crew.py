"""Processes that work together: started once, they run one function after another, each with its rank and a mesh of all.

A function is one of a module under `tests/dist`; what every process returns comes back in a list. Where one raises, dies or
takes too long, all are stopped, and the test fails with what was raised; the next test gets new ones. The folder by which they
find each other goes with them.
"""

from __future__ import annotations

import os
import queue
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

PATIENCE = 120.0
"""Seconds that a task may take."""


class Failed(AssertionError):
    """A task has failed in a process."""


class Crew:
    """`size` processes with a process group over gloo, whose collectives wait `timeout` seconds for each other."""

    def __init__(self, size: int, timeout: float = 60.0) -> None:
        self.size, self.timeout = size, timeout
        self._processes: list[Any] = []
        self._tasks: list[Any] = []
        self._outcomes: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE) -> list[Any]:
        """What the function returns in each process. Raises Failed with the traceback of the first that raised."""
        outcomes = self.outcomes(function, *arguments, patience=patience)
        for rank, (_value, error) in enumerate(outcomes):
            if error is not None:
                raise Failed(f"in process {rank} of {self.size}:\n{error}")
        return [value for value, _ in outcomes]

    def outcomes(
        self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE
    ) -> list[tuple[Any, str | None]]:
        """For each process what it returned, and the traceback of what it raised; a process that died has one, too."""
        if not self._processes:
            self._start()
        for tasks in self._tasks:
            tasks.put((function, arguments))
        found: dict[int, tuple[Any, str | None]] = {}
        left = patience
        while len(found) < self.size and left > 0:
            try:
                rank, value, error = self._outcomes.get(timeout=0.2)
                found[rank] = value, error
            except queue.Empty:
                left -= 0.2
                for rank, process in enumerate(self._processes):
                    if not process.is_alive() and rank not in found and self._outcomes.empty():
                        found[rank] = None, f"the process died with exit code {process.exitcode}"
        whole = [found.get(rank, (None, f"not done after {patience:g} s")) for rank in range(self.size)]
        if any(error is not None for _, error in whole):
            self.stop()
        return whole

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="optc-crew-", ignore_cleanup_errors=True)
        store = Path(self._folder.name) / "store"
        self._outcomes = context.Queue()
        self._tasks = [context.Queue() for _ in range(self.size)]
        environment = {key: os.environ[key] for key in ("TRITON_INTERPRET",) if key in os.environ}
        for rank, tasks in enumerate(self._tasks):
            arguments = rank, self.size, store, self.timeout, environment, tasks, self._outcomes
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._processes.append(process)

    def stop(self) -> None:
        """Stops the processes, and removes their folder."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes, self._tasks = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _work(rank: int, size: int, store: Path, timeout: float, environment: dict[str, str], tasks: Any, outcomes: Any) -> None:
    import torch.distributed as dist

    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    while True:
        function, arguments = tasks.get()
        try:
            outcomes.put((rank, function(rank, *arguments), None))
        except BaseException:
            outcomes.put((rank, None, traceback.format_exc()))
