"""Starting jobs by the lifecycle, for tests that need no more than that."""

from __future__ import annotations

import itertools
import time
from typing import Any

from mlctl import jobfile, lifecycle
from mlctl.backend import Backend
from mlctl.runs import Key, Run

_numbers = itertools.count()


def execution(made: Backend, key: str = "", **fields: Any) -> lifecycle.Execution:
    """Of a job that is `fields`; a key that nobody used unless one is given."""
    job = jobfile.load({"kind": "process", "name": "job", "command": {"shell": "true"}, **fields})
    asked = Key(key or f"{time.time_ns()}-{next(_numbers)}", "job")
    return lifecycle.Execution(job, made, made.settings, asked)  # type: ignore[attr-defined]


def started(made: Backend, shell: str = "true", key: str = "", **fields: Any) -> Run:
    return execution(made, key, command={"shell": shell}, **fields).start().run
