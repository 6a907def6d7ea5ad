"""The only loop: asks a platform about many runs, by batch, until each has ended.

`rounds` is the loop; `follow` is one waiter in its own thread, `Poller` one thread for any number of waiters.
A failed poll is never a failed run: it is tried again, slower.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .backend import Backend
from .errors import MlctlError, Unavailable
from .runs import Run, Status

__all__ = ["Poller", "follow", "rounds", "until_done"]

log = logging.getLogger(__name__)

FIRST = 0.02  # seconds: a trivial job should not wait for its poll
GROWTH = 1.5
SLOWEST = 60.0

Told = Callable[[Status | BaseException], object]
"""What a waiter is told by: the run's terminal status, or why it can't be watched."""


def rounds(
    backend: Backend, runs: Callable[[], Sequence[Run]], interval: float | None = None, deadline: float = math.inf
) -> Iterator[Mapping[Run, Status | MlctlError]]:
    """What the platform says of `runs()`, round after round, for as long as the caller goes on and there are runs.

    The time from round to round grows from 20 ms to `interval` seconds (the platform's own unless given), half of it at
    least a pause; and beyond, to a minute, while the platform is unavailable; a round without an answer is empty. No pause
    goes beyond `deadline`, on the monotonic clock; stopping there is the caller's. Raises Unauthorized.
    """
    slowest = backend.interval if interval is None else interval
    delay, failures = min(FIRST, slowest), 0
    while batch := runs():
        began = time.monotonic()
        try:
            answer: Mapping[Run, Status | MlctlError] = backend.status(batch)
        except Unavailable as error:
            log.warning("%s; trying again", error)
            answer = {}
        silent = all(isinstance(one, Unavailable) for one in answer.values())
        failures = min(failures + 1, 20) if silent else 0  # 20 doublings are beyond a minute, whatever the delay
        yield answer
        batch = runs()
        if not batch:
            return
        pause = max(delay / 2, began + delay - time.monotonic())
        if failures:
            pause = min(delay * 2**failures, max(SLOWEST, slowest))
        backend.pause(batch, max(0.0, min(pause, deadline - time.monotonic())))
        delay = min(delay * GROWTH, slowest)


def follow(
    backend: Backend, run: Run, timeout: float | None = None, interval: float | None = None, unseen: float = 0.0
) -> Iterator[Status]:  # fmt: skip
    """Each status of `run`, to the terminal one, or for `timeout` seconds.

    Raises what the platform says of this run: RunNotFound, Unauthorized, and Unavailable where it can't be seen from the
    start; once it was seen, it is asked for again, and before that for `unseen` seconds, unless it lives elsewhere.
    """
    began = time.monotonic()
    deadline = math.inf if timeout is None else began + timeout
    seen = False
    for answer in rounds(backend, lambda: [run], interval, deadline):
        status = answer.get(run)
        if isinstance(status, MlctlError):
            patient = seen or (time.monotonic() < began + unseen and _reached(backend, run))
            if not (patient and isinstance(status, Unavailable)):
                raise status
            log.warning("%s; trying again", status)
        elif status is not None:
            seen = True
            yield status
            if status.state.terminal:
                return
        if time.monotonic() >= deadline:
            return


def _reached(backend: Backend, run: Run) -> bool:
    """False where the run lives elsewhere, and no wait changes that."""
    try:
        return backend.reaches(run)
    except Unavailable:
        return True


def until_done(
    backend: Backend, run: Run, timeout: float | None = None, each: Callable[[Status], None] | None = None,
    interval: float | None = None, unseen: float = 0.0,
) -> Status | None:  # fmt: skip
    """The status of `run` once it is terminal, or None where `timeout` seconds were not enough.

    `each` is called with every status on the way. Raises as `follow` does.
    """
    for status in follow(backend, run, timeout, interval, unseen):
        if each:
            each(status)
        if status.state.terminal:
            return status
    return None


class Poller:
    """One thread that waits for any number of runs of one backend, with one status call a round.

    The thread starts with the first run and ends when none is left. Safe to use from any thread.
    """

    def __init__(self, backend: Backend, interval: float | None = None) -> None:
        self.backend = backend
        self.interval = interval
        self._lock = threading.Lock()
        self._waiting: dict[Run, list[Told]] = {}
        self._seen: set[Run] = set()
        self._thread: threading.Thread | None = None

    def watch(self, run: Run, told: Told) -> None:
        """Has `told` called once, by the poller's thread: with the run's terminal status, or with what `follow` would raise.

        A function, and no future: one of those is eleven objects, of which a process with thousands has Python look through
        all for garbage, while nothing else goes on.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name=f"mlctl-{self.backend.name}", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting.setdefault(run, []).append(told)

    def forget(self, run: Run, told: Told) -> None:
        """`told` needn't be any more; the run itself goes on. A no-op where it was."""
        with self._lock:
            waiters = self._waiting.get(run, [])
            if told in waiters:
                waiters.remove(told)
                if not waiters:
                    self._left(run)

    def _left(self, run: Run) -> list[Told]:
        """Nobody waits for it any more; who did."""
        self._seen.discard(run)
        return self._waiting.pop(run, [])

    def _runs(self) -> list[Run]:
        with self._lock:
            if not self._waiting:
                self._thread = None  # under the lock: whoever comes next starts another
            return list(self._waiting)

    def _work(self) -> None:
        try:
            for answer in rounds(self.backend, self._runs, self.interval):
                for run, status in answer.items():
                    if isinstance(status, MlctlError):
                        if not (run in self._seen and isinstance(status, Unavailable)):
                            self._end(run, status)
                    elif status.state.terminal:
                        self._end(run, status)
                    elif run in self._waiting:
                        self._seen.add(run)
        except BaseException as error:  # whatever it is, the waiters must hear of it, not hang
            with self._lock:
                self._thread = None
                waiting, self._waiting = self._waiting, {}
                self._seen.clear()
            for run, waiters in waiting.items():
                _tell(run, waiters, error)

    def _end(self, run: Run, answer: Status | MlctlError) -> None:
        with self._lock:
            waiters = self._left(run)
        _tell(run, waiters, answer)


def _tell(run: Run, waiters: list[Told], answer: Status | BaseException) -> None:
    for told in waiters:
        try:
            told(answer)
        except Exception:  # such as an event loop that was closed meanwhile; the others are told all the same
            log.exception("%s: a waiter could not be told", run)
