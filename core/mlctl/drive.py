"""A job driven by a thread of its own, for a caller that may be interrupted at any instruction.

A signal, Ctrl-C, an orchestrator's timeout or cancelled coroutine: whatever interrupts the caller's wait leaves the
thread alone. So a submit that is under way is finished and seen, and the run is then ended or left, as the caller says;
never torn, and no event loop is blocked.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace

from . import lifecycle, masking
from .errors import MlctlError, RunFailed, Unavailable
from .lifecycle import Execution, Outcome
from .runs import Run, State, Status

__all__ = ["Drive"]

log = logging.getLogger(__name__)

_TICK = 1.0  # seconds: how late a thread sees an exception that another thread raises in it


class Drive:
    """A job on its way: made, planned, started or found, and followed to its end.

    `make` gives the execution. `say` gets each line of the log, with what this machine knows of the job's secrets masked;
    a later attempt's log follows the earlier one's. `see` gets the outcome so far, at the start and with every status;
    `before` the execution, just before anything is submitted, planned unless it goes on. All are called in the thread; what
    they raise ends the wait, and the run goes on.

    A wait in parts, each perhaps in another process: `patience` is how many seconds to follow the run, and the outcome
    has no status where they were not enough; `found` goes on from such an outcome, its log from `cursor` on.
    """

    def __init__(
        self,
        make: Callable[[], Execution],
        say: Callable[[str], None],
        *,
        see: Callable[[Outcome], None] = lambda outcome: None,
        before: Callable[[Execution], None] = lambda execution: None,
        found: Outcome | None = None,
        cursor: str = "",
        patience: float | None = None,
    ) -> None:
        self._make, self._say, self._see, self._before = make, say, see, before
        self._found, self._patience = found, patience
        self._called_off = threading.Event()
        self._cursors: dict[Run, str] = {found.run: cursor} if found else {}
        self.execution: Execution | None = None
        self.outcome: Outcome | None = None
        """The attempt in hand, and what was last seen of it; None before there is one."""
        self.masked: Callable[[str], str] = str
        """Takes the job's secrets out of a text."""
        self.started: Future[Outcome] = Future()
        self.done: Future[Outcome] = Future()
        context = contextvars.copy_context()  # an orchestrator's task is known by it
        thread = threading.Thread(target=context.run, args=(self._work,), name="mlctl-drive", daemon=True)
        try:
            thread.start()  # waits for the thread's first breath, which may be long in coming
        except BaseException:  # interrupted, when nobody has this Drive yet that could end the job
            self.call_off()
            raise

    # For the caller

    @property
    def cursor(self) -> str:
        """How far the log of the attempt in hand was said."""
        return self._cursors.get(self.outcome.run, "") if self.outcome else ""

    def wait(self, timeout: float | None = None) -> Outcome:
        """The outcome with its terminal status, whatever that is. Raises mlctl's errors; TimeoutError.

        What interrupts it comes through, and the job goes on: `stop` ends it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done.done():
            left = _TICK if deadline is None else min(_TICK, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"{self._name()}: still going after {timeout} s; it goes on")
            try:
                return self.done.result(left)
            except NotYet:
                continue
        return self.done.result()

    def succeeded(self) -> Outcome:
        """As `wait`, for success only: raises RunFailed, its message masked, for any other end."""
        outcome = self.wait()
        if outcome.status and outcome.status.state is State.SUCCEEDED:
            return outcome
        raise self.failed(outcome)

    def failed(self, outcome: Outcome) -> RunFailed:
        """The error that says how the run ended, without the job's secrets."""
        status = outcome.status or Status(State.CANCELLED)
        return RunFailed(outcome.run, replace(status, message=self.masked(status.message)))

    def call_off(self) -> None:
        """Asks for the end, and returns at once: nothing is submitted any more, and what runs is cancelled."""
        self._called_off.set()
        if self.execution:
            self.execution.stop()

    def stop(self, patience: float) -> Outcome:
        """Ends the job wherever it is on its way, and returns once it has ended: cancelled, or by itself before that.

        Raises Interrupted where nothing had been started; Unavailable where it was asked to end and has not within
        `patience` seconds.
        """
        deadline = time.monotonic() + patience
        self.call_off()
        last: Outcome | None = None
        try:
            self.started.result(patience)  # while it is being submitted, that comes first
            while not self._ended() and (left := deadline - time.monotonic()) > 0:
                assert self.execution and self.outcome  # noqa: S101 - both are there once it has started
                run, made = self.outcome.run, self.outcome.made
                status = lifecycle.cancel(self.execution.backend, run, left)
                last = Outcome(run, made, status)
                if self.outcome.run == run:
                    break
            outcome = self.done.result(max(0.0, deadline - time.monotonic()))
            if outcome.status:
                return outcome
        except NotYet:
            pass
        if last and last.status:  # the thread is between two looks, or looks no more: it would see the same
            return last
        raise Unavailable(f"{self._name()}: was asked to end, and has not yet")

    def _ended(self) -> bool:
        return self.done.done() and bool(self.done.exception() or self.done.result().status)

    def _name(self) -> str:
        return str(self.outcome.run) if self.outcome else "the job"

    # In the thread

    def _work(self) -> None:
        try:
            outcome = self._driven()
        except BaseException as error:  # the caller's to raise
            if not self.started.done():
                self.started.set_exception(error)
            self.done.set_exception(error)
        else:
            self.done.set_result(outcome)

    def _driven(self) -> Outcome:
        execution = self.execution = self._make()
        if self._called_off.is_set():  # before there was an execution to tell
            execution.stop()
        if not self._found:
            execution.plan()  # refused, or interrupted, before anything is there to be ended
        self.masked = masking.mask(execution.job.secrets, execution.settings.values)
        self._before(execution)
        first = self.outcome = self._found or execution.start()
        self._see(first)
        self.started.set_result(first)

        def each(run: Run, status: Status | None) -> None:
            self._each(Outcome(run, first.made or run != first.run, status))

        outcome = execution.wait(first, self._patience, each)
        each(outcome.run, outcome.status)
        return outcome

    def _each(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._see(outcome)
        run, status = outcome.run, outcome.status
        self._tell(run)
        assert self.execution  # noqa: S101 - there is no run without one
        if self._called_off.is_set() and not (status and status.state.terminal):
            try:
                self.execution.backend.cancel(run)
            except Unavailable as error:  # asked again at the next status
                log.warning("%s; trying again", error)

    def _tell(self, run: Run) -> None:
        """What is new in the run's log. What can't be read now is read at the next status; the run is none the worse."""
        assert self.execution  # noqa: S101
        try:
            for logs in lifecycle.lines(self.execution.backend, run, self._cursors.get(run, "")):
                for line in logs.lines:
                    self._say(self.masked(line))
                self._cursors[run] = logs.cursor
        except MlctlError as error:
            log.warning("%s: the log can't be read now: %s", run.name, error)
