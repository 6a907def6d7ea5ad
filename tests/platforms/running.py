"""What the tests of every platform do with a run: wait for its end, look at its state, read its log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlctl import lifecycle, watch
from mlctl.backend import Backend
from mlctl.runs import Run, Status

PATIENCE = 180.0
"""Seconds that a job of a moment may take: a machine may be busy."""


def ended(made: Backend, run: Run, seconds: float = PATIENCE) -> Status:
    """How it ended."""
    status = watch.until_done(made, run, seconds)
    assert status is not None, f"{run} did not end within {seconds} s: {made.status([run])[run]}"
    return status


def status_of(made: Backend, run: Run) -> Status:
    """What is said of it now."""
    status = made.status([run])[run]
    assert isinstance(status, Status), status
    return status


def log(made: Backend, run: Run) -> list[str]:
    """All that it wrote."""
    return [line for logs in lifecycle.lines(made, run) for line in logs.lines]


def until(true: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """What `true()` gives once it gives anything; fails where it doesn't come."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or true}"
        time.sleep(0.05)
    return found
