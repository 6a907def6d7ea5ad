"""The contract's view of the stand-in, by the stand-in's own memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from kfp_standin import LIVE, TOKEN, StandIn

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.runs import Run
from mlctl.testing import Harness, Native

VARIABLES = {"KFP_TEST_TOKEN": TOKEN}


def furnish(standin: StandIn) -> None:
    """A Secret, as a platform team makes it."""
    standin.secrets["acme-ml", "token"] = Harness.secret


def settings(standin: StandIn) -> dict[str, Any]:
    return {
        "host": standin.url, "server": "test", "token": "env:KFP_TEST_TOKEN", "volumes": {"data": {"claim": "team-data"}},
        "storage": "volume://data/mlctl", "accelerators": {"A10G": {"resource": "nvidia.com/gpu"}}, "grace": "2s",
        "secrets": {"TOKEN": "k8s-secret:acme-ml/token"},
    }  # fmt: skip


class KFPHarness(Harness):
    """KFP's own client over HTTP to the stand-in."""

    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "outputs.uri": {"outputs": {"model": {"uri": "volume://data/models"}}},
    }

    def __init__(self, standin: StandIn, home: Path) -> None:
        self.standin, self.home = standin, home

    def make(self) -> Backend:
        made = backend.load("kfp", Settings("prod", settings(self.standin), self.home))
        made.interval = 0.2
        return made

    def native(self, run: Run) -> Native:
        runs = self.standin.named(run.name)
        return Native(len(runs), any(each.state in (*LIVE, "CANCELING") for each in runs))

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        with (
            self.standin.fault("lost", "POST /runs$", times=1)
            if fault == "lost_response"
            else self.standin.fault(fault)
        ):
            yield
