"""Starting and ending jobs by the lifecycle, for tests that need no more than that."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from mlctl import jobfile, lifecycle, watch
from mlctl.backend import Backend
from mlctl.runs import Key, Run, Status

PATIENCE = 120.0
_numbers = itertools.count()


def execution(made: Backend, key: str = "", **fields: Any) -> lifecycle.Execution:
    """Of a job that is `fields`; a key that nobody used unless one is given."""
    job = jobfile.load({"kind": "process", "name": "job", "command": {"shell": "true"}, **fields})
    asked = Key(key or f"{time.time_ns()}-{next(_numbers)}", "job")
    return lifecycle.Execution(job, made, made.settings, asked)  # type: ignore[attr-defined]


def started(made: Backend, shell: str = "true", key: str = "", **fields: Any) -> Run:
    return execution(made, key, command={"shell": shell}, **fields).start().run


def ended(made: Backend, run: Run) -> Status:
    status = watch.until_done(made, run, PATIENCE)
    assert status is not None, f"{run} did not end within {PATIENCE} s"
    return status


def log(made: Backend, run: Run) -> list[str]:
    return [line for logs in lifecycle.lines(made, run) for line in logs.lines]


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `true()` gives once it gives anything; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
