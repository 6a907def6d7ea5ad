"""How the tests make the backend, break the stand-in, and look at it by other means than the backend."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from databricks.sdk import WorkspaceClient
from databricks_standin import TOKEN, VOLUME, Standin

from mlctl import backend, jobfile, lifecycle
from mlctl.backend import Backend, Settings
from mlctl.job import Job
from mlctl.runs import Key, Run
from mlctl.testing import Harness, Native

_numbers = itertools.count()


def furnish(standin: Standin) -> None:
    """A secret, as a platform team keeps it."""
    client = WorkspaceClient(host=standin.url, token=TOKEN)
    client.secrets.create_scope("ml")
    client.secrets.put_secret("ml", "token", string_value=Harness.secret)


class DatabricksHarness(Harness):
    """Looks at the stand-in's own records and at /proc."""

    patience = 120.0
    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar = {"outputs.uri": {"outputs": {"model": {"uri": f"{VOLUME}/models"}}}}

    def __init__(self, standin: Standin, home: Path, **values: object) -> None:
        home.mkdir()
        self.standin, self.home = standin, home
        root = f"{VOLUME}/test-{next(_numbers)}"
        self.values = {"root": root, "host": standin.url, "secrets": {"TOKEN": "dbx-secret:ml/token"}, **values}

    def make(self) -> Backend:
        made = backend.load("databricks", Settings("dbx", self.values, self.home))
        made.interval = 0.2
        return made

    def native(self, run: Run) -> Native:
        count = sum(each["run_name"] == run.name for each in self.standin.runs.values())
        mark = f"MLCTL_RUN={run}".encode()
        return Native(count, any(mark in environ.split(b"\0") for environ in _environments()))

    def inject(self, fault: str) -> contextlib.AbstractContextManager[None]:
        return self.standin.broken(fault)


def _environments() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def job_of(command: Any = ("echo", "hi"), **fields: Any) -> Job:
    return jobfile.load({"kind": "process", "name": "runs", "command": command, **fields})


def execution(made: Backend, job: Job, key: Key | None = None) -> lifecycle.Execution:
    return lifecycle.Execution(job, made, made.settings, key or Key(f"k{time.time_ns()}", "runs"))  # type: ignore[attr-defined]


def started(made: Backend, job: Job) -> Run:
    return execution(made, job).start().run
