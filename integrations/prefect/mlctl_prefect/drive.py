"""One run, driven by a thread of its own: started, waited for, its log copied to Prefect's, its artifacts made.

A thread, because a signal, a timeout or a cancelled coroutine may interrupt whoever waits at any instruction, and what
is being submitted then must be finished, seen and ended, not torn. It blocks nobody's event loop, and there are no
async twins.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from prefect.exceptions import CancelledRun

from mlctl import lifecycle
from mlctl.errors import MlctlError, RunFailed
from mlctl.runs import Run, State, Status

from . import artifacts, flowstate, masking
from .results import MlctlResult

__all__ = ["Drive"]

_TICK = 1.0  # seconds: how late a thread sees Prefect's timeout, which comes between two instructions of Python
_GRACE = 25.0  # seconds to see a job's end after asking for it; Prefect's runner kills a cancelled flow after 30


class Drive:
    """A job on its way. `logger` gets the job's lines, and what is worth telling about it.

    `start` and `result` block; `wait` and `wait_async` are for whoever may be interrupted, and end the job then.
    """

    def __init__(self, make: Callable[[], lifecycle.Execution], logger: Any) -> None:
        self._make = make
        self._logger = logger
        self._execution: lifecycle.Execution | None = None
        self._outcome: lifecycle.Outcome | None = None
        self._cursors: dict[Run, str] = {}
        self._mask: Callable[[str], str] = str
        self._called_off = threading.Event()
        self.started: Future[Run] = Future()
        self.done: Future[MlctlResult] = Future()
        context = contextvars.copy_context()  # artifacts find their task run by it
        threading.Thread(target=context.run, args=(self._work,), name="mlctl-prefect", daemon=True).start()

    # In the thread

    def _work(self) -> None:
        try:
            result = self._run()
        except BaseException as error:
            if not self.started.done():
                self.started.set_exception(error)
            self.done.set_exception(error)
        else:
            self.done.set_result(result)

    def _run(self) -> MlctlResult:
        execution = self._execution = self._make()
        execution.prepare()
        self._mask = masking.mask(execution.job, execution.settings)
        artifacts.plan(execution, self._logger)
        if self._called_off.is_set():
            execution.stop()
            raise CancelledRun("the run was cancelled before the job was started")
        outcome = self._outcome = execution.start()
        if not outcome.made:
            execution.again = False  # what was found counts as this try's own
        self._logger.info("%s %s on %s", "Started" if outcome.made else "Found", outcome.run, execution.settings.target)
        artifacts.link(execution.job, outcome.run, outcome.status, self._logger)
        self.started.set_result(outcome.run)
        try:
            outcome = self._outcome = execution.wait(outcome, each=self._each)
        except CancelledRun:
            self.stop()
            raise
        status = outcome.status
        assert status is not None  # noqa: S101 - wait without a timeout returns at the end only
        self._copy_log(outcome.run)
        if status.state is not State.SUCCEEDED:
            raise masking.masked(RunFailed(outcome.run, status), self._mask)
        left = execution.backend.result(outcome.run)
        artifacts.results(execution.job, left, self._logger)
        return MlctlResult.of(execution.job, outcome.run, status, left)

    def _each(self, run: Run, status: Status) -> None:
        assert self._execution and self._outcome  # noqa: S101 - set before anything is waited for
        if self._outcome.run != run:  # the job's own `retry` was spent, or somebody else ended the run
            self._outcome = lifecycle.Outcome(run, True, status)
            artifacts.link(self._execution.job, run, status, self._logger)
        self._copy_log(run)
        if not status.state.terminal and not self._called_off.is_set() and flowstate.cancelled():
            raise CancelledRun("the flow run was cancelled, and the job with it")

    def _copy_log(self, run: Run) -> None:
        assert self._execution  # noqa: S101 - set before anything is waited for
        try:
            for logs in lifecycle.lines(self._execution.backend, run, self._cursors.get(run, "")):
                for line in logs.lines:
                    self._logger.info("%s", self._mask(line))
                self._cursors[run] = logs.cursor
        except MlctlError as error:  # its log is late; the run isn't
            self._logger.warning("%s: the log can't be read now: %s", run.name, error)

    # For whoever waits

    def stop(self) -> None:
        """Ends the job, wherever it is on its way, and waits some time for its end. Never raises mlctl's errors."""
        self._called_off.set()
        if self._execution:
            self._execution.stop()
        if not self._outcome and not self.done.done():  # being submitted: the submit ends what it starts
            with contextlib.suppress(Exception):
                self.started.result(_GRACE)
        if not self._execution or not self._outcome:
            return
        try:
            status = lifecycle.cancel(self._execution.backend, self._outcome.run, _GRACE)
        except MlctlError as error:
            self._logger.error("%s could not be cancelled: %s", self._outcome.run, error)
        else:
            self._logger.info("%s is %s", self._outcome.run, status.state.value if status else "stopping")

    def wait(self) -> MlctlResult:
        """The result. Raises RunFailed and mlctl's other errors. Whatever interrupts the wait ends the job."""
        try:
            while True:
                with contextlib.suppress(NotYet):
                    return self.done.result(_TICK)
                if self.done.done():  # its own error is a timeout
                    return self.done.result()
        except Exception:
            raise
        except BaseException:  # a signal, Ctrl-C, Prefect's cancellation and timeouts
            self.stop()
            raise

    async def wait_async(self) -> MlctlResult:
        """As `wait`, for an event loop."""
        try:
            return await asyncio.shield(asyncio.wrap_future(self.done))
        except Exception:
            raise
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self.stop))
            raise
