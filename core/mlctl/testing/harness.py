"""What a platform under test is looked at through, and what its jobs ask for."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from mlctl.backend import Backend
from mlctl.runs import Run, State

__all__ = ["FAULTS", "HOSTILE", "SAMPLES", "Harness", "Native"]

FAULTS = ("throttled", "forbidden", "lost_response")
"""What a harness may be asked to inject: every call answers 429 or its like; 403 or its like; the next submit is carried
out, and its answer lost."""

HOSTILE = (
    "a'; echo foo", 'a"b', "two\nlines", "tab\there", "ünïcödé ☃", "$(HOME)", "${HOME}", "`id`", "${{inputs.x}}",
    "${{params.text}}", "{{secrets/a/b}}", "{{job.id}}", "{{workflow.name}}", "{% raw %}", "%s %d", "\\n\\", "-rf", "--",
    "*", "~", "#", "!", "a=b", " ", "", "x" * 10_000,
)  # fmt: skip
"""Values of parameters that arrive inside the job as they were sent, or are refused by `plan`."""

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "code": {"code": "."},
    "image": {"image": "busybox:1", "code": "."},
    "python": {"python": f"3.{sys.version_info.minor}"},
    "requirements": {"requirements": ["six==1.17.0"]},
    "command.shell": {"command": {"shell": "exit 0"}},
    "params": {"params": {"lr": 0.1}},
    "inputs": {"inputs": {"data": "data.txt"}},
    "inputs.mode.download": {"inputs": {"data": {"uri": "data.txt", "mode": "download"}}},
    "inputs.mode.mount": {"inputs": {"data": {"uri": "data.txt", "mode": "mount"}}},
    "outputs": {"outputs": {"model": {}}},
    "outputs.uri": {"outputs": {"model": {"uri": "models"}}},
    "outputs.mode.upload": {"outputs": {"model": {"mode": "upload"}}},
    "outputs.mode.mount": {"outputs": {"model": {"mode": "mount"}}},
    "env": {"env": {"A": "b"}},
    "secrets": {"secrets": ["TOKEN"]},
    "resources.cpu": {"resources": {"cpu": 1}},
    "resources.memory": {"resources": {"memory": "1Gi"}},
    "resources.accelerators": {"resources": {"accelerators": "A10G:1"}},
    "resources.disk": {"resources": {"disk": "1Gi"}},
    "resources.shm": {"resources": {"shm": "64Mi"}},
    "resources.spot": {"resources": {"spot": True}},
    "resources.nodes": {"resources": {"nodes": 2}},
    "distribution": {"distribution": {"type": "torchrun"}},
    "timeout": {"timeout": "1h"},
    "queue_timeout": {"queue_timeout": "1h"},
    "labels": {"labels": {"team": "growth"}},
    "tags": {"tags": ["a"]},
}
"""For each of backend.FIELDS, a job's fields that ask for it. Inputs name data.txt, which the suite makes."""


@dataclasses.dataclass(frozen=True)
class Native:
    """What the platform itself says of a run's name: how many it has, and whether one is going on."""

    count: int
    alive: bool


class Harness:
    """One platform under test. Override `make` and `native`; the rest where the defaults don't do."""

    secret: ClassVar[str] = "s3cr3t-7f1e9c"  # noqa: S105 - made up, and looked for wherever it must not be
    patience: ClassVar[float] = 60.0
    """Seconds that a trivial job may take on this platform."""
    faults: frozenset[str] = frozenset()
    """Those of FAULTS that `inject` knows."""
    unproven: ClassVar[Mapping[str, str]] = {}
    """Name of a test -> why this harness can't prove it."""
    samples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """For some of backend.FIELDS, a sample that the platform takes instead of the suite's own: an image it knows."""

    def make(self) -> Backend:
        """A new instance of the backend. Its target must resolve the secret TOKEN to `secret`."""
        raise NotImplementedError

    def native(self, run: Run) -> Native:
        """What the platform says, not by way of the backend under test."""
        raise NotImplementedError

    def inject(self, fault: str) -> contextlib.AbstractContextManager[None]:
        """Breaks the platform in that way for as long as the context is open."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Fields that every job needs here, such as an image."""
        return {}

    def advance(self, run: Run, state: State) -> None:
        """Where nothing executes jobs, makes the platform say that the run got to `state`, with exit code 3 where it failed."""
