"""A run as it goes: its uploads as a bar, its log, line by line, and on a terminal one last line that says how long it has
been going on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import click

from mlctl import contract, units
from mlctl.lifecycle import Outcome

from . import colour, mute, show, unread

__all__ = ["Live", "Uploads"]

_CLEAR = "\r\033[K"
_LARGE = 8 << 20  # bytes: what takes long enough to have a bar


class Uploads:
    """The bar of an execution's uploads, where they are large; called with the bytes done, and all."""

    def __init__(self) -> None:
        self._bar: Any = None

    @classmethod
    def shown(cls) -> Uploads | None:
        """One for a terminal. Elsewhere the log tells."""
        return cls() if sys.stderr.isatty() else None

    def __call__(self, done: int, total: int) -> None:
        """Draws it."""
        if self._bar is None:
            if total < _LARGE:
                return
            self._bar = click.progressbar(length=total, label="uploading", file=sys.stderr, width=0)
        self._bar.update(max(0, done - self._bar.pos))
        if done >= total:
            self._bar.render_finish()
            self._bar = None


class Live:
    """What a Drive tells: `say` prints a line of the log, `see` keeps the last line of a terminal; `announce` gets the
    outcome once there is one."""

    def __init__(self, announce: Callable[[Outcome], None], *, to_stderr: bool = False) -> None:
        self.announce, self.to_stderr = announce, to_stderr
        self.out = sys.stderr if to_stderr else sys.stdout
        self.ticking = self.out.isatty() and sys.stderr.isatty()
        self.announced = False

    def see(self, outcome: Outcome) -> None:
        """Says what was started, and on a terminal what has become of it so far."""
        if not self.announced:
            self.announced = True
            with unread():
                self.announce(outcome)
        status = outcome.status
        if self.ticking and status and not status.state.terminal:
            since = (datetime.now(timezone.utc) - status.started).total_seconds() if status.started else 0.0
            self._note(f"{_CLEAR}{show.paint(status.state)} {units.shown_seconds(max(0.0, since))}")
        else:
            self.clear()

    def say(self, line: str) -> None:
        """Prints a line of the log."""
        self.clear()
        try:
            click.echo(self.shown(line), err=self.to_stderr, color=colour())
        except OSError:  # nobody reads any more, or the disk is full; the job's outcome is still the exit code
            mute(self.out)

    def clear(self) -> None:
        """Takes the last line away."""
        if self.ticking:
            self._note(_CLEAR)

    def _note(self, text: str) -> None:
        click.echo(text, nl=False, err=True, color=colour())

    def shown(self, line: str) -> str:
        """A line of the log; on a terminal, a metric in words."""
        if not self.out.isatty() or not line.startswith(contract.METRIC):
            return line
        points = contract.metrics([line.removeprefix(contract.METRIC)])
        step = f"  step {points[0].step}" if points and points[0].step is not None else ""
        return click.style(f"{points[0].name}  {points[0].value:g}{step}", fg="cyan") if points else line
