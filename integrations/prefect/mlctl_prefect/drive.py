"""A job driven for a flow: its log in Prefect's, its artifacts on the flow run, its end when the flow run's is asked for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from prefect.exceptions import CancelledRun

from mlctl import drive
from mlctl.errors import Interrupted, MlctlError, RunFailed
from mlctl.lifecycle import Execution, Outcome
from mlctl.runs import Run

from . import artifacts, flowstate
from .results import MlctlResult

__all__ = ["Drive"]

T = TypeVar("T")

_GRACE = 25.0  # seconds to see a job's end after asking for it; Prefect's runner kills a cancelled flow after 30


class Drive(drive.Drive):
    """mlctl's Drive in a flow. `logger` gets the job's lines, and what is worth telling about it.

    What interrupts a wait here, of whoever waits, ends the job. Errors of mlctl come without the frames of this thread.
    """

    def __init__(self, make: Callable[[], Execution], logger: Any) -> None:
        self._logger = logger
        self._shown: tuple[Run, str] | None = None  # whose link the flow run has, and where that leads
        self._cancelled = False  # the flow run, as the server has it
        self._result: MlctlResult | None = None
        self._reading = threading.Lock()
        say = lambda line: logger.info("%s", line)  # noqa: E731
        super().__init__(make, say, see=self._follow, before=self._prepare)

    # In the thread

    def _prepare(self, execution: Execution) -> None:
        self._ask()  # then nothing is started
        artifacts.plan(execution, self._logger)

    def _follow(self, outcome: Outcome) -> None:
        assert self.execution  # noqa: S101 - there is no run without one
        run, status = outcome.run, outcome.status
        if self._shown is None or self._shown[0] != run:
            word = "Started" if outcome.made else "Found"
            self._logger.info("%s %s on %s", word, run, self.execution.settings.target)
        link = status.link if status else ""
        if self._shown != (run, link):
            self._shown = run, link
            artifacts.link(self.execution.job, run, link, self._logger)
        if not (status and status.state.terminal):
            self._ask()

    def _ask(self) -> None:
        if not self._cancelled and flowstate.cancelled():
            self._cancelled = True
            self.call_off()

    # For whoever waits

    def begun(self) -> Outcome:
        """Once the job is started, or found."""
        return self._waited(self.started.result)

    async def begun_async(self) -> Outcome:
        """As `begun`, for an event loop."""
        return await self._awaited(asyncio.wrap_future(self.started))

    def result(self) -> MlctlResult:
        """What the job left. Raises RunFailed and mlctl's other errors; CancelledRun where the flow run was cancelled."""
        return self._waited(lambda: self._left(self.succeeded()))

    async def result_async(self) -> MlctlResult:
        """As `result`, for an event loop."""
        await self._awaited(asyncio.wrap_future(self.done))
        return await self._awaited(asyncio.to_thread(lambda: self._left(self.succeeded())))

    def end(self) -> None:
        """Ends the job, wherever it is on its way, and waits some time for its end. What goes wrong is logged."""
        try:
            outcome = self.stop(_GRACE)
        except Exception as error:
            self._logger.log(logging.INFO if isinstance(error, Interrupted) else logging.ERROR, "%s", error)
        else:
            assert outcome.status  # noqa: S101 - else `stop` had raised
            self._logger.info("%s is %s", outcome.run, outcome.status.state.value)

    def _left(self, outcome: Outcome) -> MlctlResult:
        """Read once, and shown on the flow run, however many ask."""
        assert self.execution and outcome.status  # noqa: S101 - it has ended
        with self._reading:
            if self._result is None:
                job, run = self.execution.job, outcome.run
                left = self.execution.backend.result(run)
                artifacts.results(job, left, self._logger)
                self._result = MlctlResult.of(job, run, outcome.status, left)
        return self._result

    def _waited(self, answer: Callable[[], T]) -> T:
        try:
            return answer()
        except MlctlError as error:
            raise self._told(error) from None
        except Exception:
            raise
        except BaseException:  # a signal, Ctrl-C, Prefect's cancellation and timeouts
            self.end()
            raise

    async def _awaited(self, answer: Awaitable[T]) -> T:
        try:
            return await asyncio.shield(answer)
        except MlctlError as error:
            raise self._told(error) from None
        except Exception:
            raise
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self.end))
            raise

    def _told(self, error: MlctlError) -> Exception:
        """The error as Prefect and its user should have it: one line, without the frames of mlctl's thread."""
        if self._cancelled and isinstance(error, (Interrupted, RunFailed)):
            return CancelledRun("the flow run was cancelled, and the job with it")
        return error.with_traceback(None)
