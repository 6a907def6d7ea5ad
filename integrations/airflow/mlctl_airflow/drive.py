"""A job driven for a try of a task: its log in the task's, its end when the try's is asked for.

The task's main thread talks to Airflow, and mlctl's own thread to the platform, never the other way round: so nothing that
Airflow does to the one, a signal, `execution_timeout`, tears what the other has under way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlctl import drive
from mlctl.errors import Interrupted
from mlctl.lifecycle import Execution, Outcome
from mlctl.runs import Run

__all__ = ["Drive"]

_LOOK = 0.2  # seconds: how late SIGTERM is seen, of the 5 that Airflow leaves a task then


class Drive(drive.Drive):
    """mlctl's Drive in a try. `log` is the task's; `options` are those of mlctl's."""

    def __init__(self, execution: Execution, log: Any, **options: Any) -> None:
        self._log, self._parent = log, os.getppid()
        self._shown: Run | None = None
        self.link = ""
        """The platform's page of the attempt in hand."""
        say = lambda line: log.info("%s", line)  # noqa: E731
        super().__init__(lambda: execution, say, see=self._seen, before=self._leave_it, **options)

    def until(self, interrupted: Callable[[], bool], each: Callable[[], None]) -> Outcome | None:
        """The outcome; None once `interrupted` says so, which is asked, as `each` is called, several times a second."""
        while not self.done.done():
            if interrupted():
                return None
            each()
            with suppress(TimeoutError):
                self.wait(_LOOK)
        return self.wait()

    def end(self, patience: float) -> Outcome | None:
        """What came of ending the run; None where there was none, or it can't be said, which the log tells then."""
        try:
            return self.stop(patience)
        except Interrupted as nothing:
            self._log.info("%s", nothing)
        except Exception as reason:
            self._log.error("the run may go on: %s", reason)
        return None

    # In the thread

    def _seen(self, outcome: Outcome) -> None:
        if outcome.run != self._shown:
            self._shown = outcome.run
            self._log.info("%s %s", "submitted" if outcome.made else "found", outcome.run)
        if outcome.status:
            self.link = outcome.status.link
        if self.execution:
            self._leave_it(self.execution)

    def _leave_it(self, execution: Execution) -> None:
        """Where this try's supervisor was killed, Airflow starts another, which owns the run: nothing is submitted here."""
        if os.getppid() != self._parent:
            execution.stop()
