"""What the stand-ins of platforms share: a server in this process, what runs the jobs that it took, and what of it is broken on
purpose."""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any


class Served:
    """A server. `run` is what becomes of a job that was taken; without it, jobs stay as they are."""

    usual = ""
    """The calls that a fault breaks which names none."""

    def __init__(self, run: Callable[..., None] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self._run = run
        self._faults: list[list[Any]] = []
        self._lock = threading.RLock()
        self._workers: list[tuple[threading.Thread, Any]] = []

    def serve(self, server: socketserver.BaseServer) -> None:
        """From now on, in a thread of its own."""
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server, and what it runs."""
        for _, job in self._workers:
            job.stopping.set()
        for worker, _ in self._workers:
            worker.join(60)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def start(self, job: Any) -> None:
        """Runs a job, where jobs are run."""
        if self._run:
            worker = threading.Thread(target=self._run, args=(self, job), daemon=True)
            self._workers.append((worker, job))
            worker.start()

    @contextlib.contextmanager
    def fault(self, kind: str, what: str = "", times: int = 10**9) -> Iterator[None]:
        """Breaks the next `times` calls that `what`, a pattern, names: one of the platform's FAULTS, `lost` (done, not answered),
        `slow` (2 s)."""
        one = [kind, what or self.usual, times]
        self._faults.append(one)
        try:
            yield
        finally:
            self._faults.remove(one)

    def broken(self, call: str) -> str:
        """The fault that a call meets; none: empty."""
        with self._lock:
            one = next((one for one in self._faults if one[2] > 0 and re.search(one[1], call)), None)
            if one is None:
                return ""
            one[2] -= 1
        if one[0] == "slow":
            time.sleep(2)
        return str(one[0])
