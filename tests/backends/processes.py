"""Work in forked processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    return child


def exit_code(child: int, seconds: float = 60) -> int:
    """How a child ended; one that takes longer is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
