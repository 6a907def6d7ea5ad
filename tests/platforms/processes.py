"""Processes that stand for a job's containers: waited for, and ended as a platform ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL; the platforms' own are longer."""


def tell(processes: Iterable[subprocess.Popen[bytes]], number: int) -> None:
    """Sends a signal to each, and to what it started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def wait(processes: Sequence[subprocess.Popen[bytes]], stopping: threading.Event, deadline: float) -> bool:
    """To the end, the limit or a stop; whether it was the limit."""
    late, ending = False, 0.0
    while any(process.poll() is None for process in processes):
        now = time.monotonic()
        late = late or (now >= deadline and not ending)
        if not ending and (late or stopping.is_set()):
            ending = now + GRACE
            tell(processes, signal.SIGTERM)
        elif ending and now >= ending:
            tell(processes, signal.SIGKILL)
        stopping.wait(0.02) if not ending else time.sleep(0.02)
    tell(processes, signal.SIGKILL)  # what a container would end with its first process
    return late
