"""A run as it goes: its log, line by line, and on a terminal one last line that says how long it has been going on."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone

import click

from mlctl import contract, lifecycle, units
from mlctl.backend import Backend
from mlctl.errors import Unavailable
from mlctl.runs import Run, Status

from . import mute, show

__all__ = ["Live"]

log = logging.getLogger(__name__)

_CLEAR = "\r\033[K"


class Live:
    """Call it with each status of a run: it prints what is new in the log. A later attempt starts its own log."""

    def __init__(self, backend: Backend, *, to_stderr: bool = False) -> None:
        self.backend, self.to_stderr = backend, to_stderr
        self.out = sys.stderr if to_stderr else sys.stdout
        self.ticking = self.out.isatty() and sys.stderr.isatty()
        self.run: Run | None = None
        self.cursor = ""

    def __call__(self, run: Run, status: Status | None) -> None:
        if run != self.run:
            self.run, self.cursor = run, ""
        try:
            self.tell(run)
        except Unavailable as error:  # what isn't shown now is shown the next time
            log.debug("%s; trying again", error)
        if self.ticking and status and not status.state.terminal:
            since = (datetime.now(timezone.utc) - status.started).total_seconds() if status.started else 0.0
            click.echo(f"{_CLEAR}{show.paint(status.state)} {units.shown_seconds(max(0.0, since))}", nl=False, err=True)
        else:
            self.clear()

    def tell(self, run: Run) -> None:
        """Prints what is new in the log."""
        for logs in lifecycle.lines(self.backend, run, self.cursor):
            self.clear()
            try:
                for line in logs.lines:
                    click.echo(self.shown(line), err=self.to_stderr)
            except OSError:  # nobody reads any more, or the disk is full; the job's outcome is still the exit code
                mute(self.out)
            self.cursor = logs.cursor

    def clear(self) -> None:
        """Takes the last line away."""
        if self.ticking:
            click.echo(_CLEAR, nl=False, err=True)

    def shown(self, line: str) -> str:
        """A line of the log; on a terminal, a metric in words."""
        if not self.out.isatty() or not line.startswith(contract.METRIC):
            return line
        points = contract.metrics([line.removeprefix(contract.METRIC)])
        step = f"  step {points[0].step}" if points and points[0].step is not None else ""
        return click.style(f"{points[0].name}  {points[0].value:g}{step}", fg="cyan") if points else line
