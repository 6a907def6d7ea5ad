"""The contract of behaviour in Prefect: a server, and a runner that executes each flow run in a process of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from prefect_harness import Prefect, until

from behaviour import PATIENCE, BehaviourContract, Call, Ended, Harness, Started
from mlctl_prefect import MlctlResult

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectHarness(Harness):
    """A flow run of a served deployment. Whoever finds it crashed has it executed again, as the UI's *Retry* does."""

    def __init__(self, prefect: Prefect, folder: Path, home: Path) -> None:
        self.prefect, self.folder, self.home = prefect, folder, home

    def start(self, call: Call) -> Started:
        return FlowRun(self, call)


class FlowRun(Started):
    def __init__(self, harness: PrefectHarness, call: Call) -> None:
        self.harness, self.call, self.prefect = harness, call, harness.prefect
        told = asdict(call) | {"job": str(call.job), "then": asdict(call.then) if call.then else None}
        if call.then:
            told["then"]["job"] = str(call.then.job)
        self.id = self.prefect.served("pipeline", call=told, home=str(harness.home))

    def log(self) -> str:
        return self.prefect.log(self.id)

    def kill(self) -> None:
        self.prefect.kill(self.id)
        until(lambda: self.prefect.state(self.id) == "CRASHED", what="the runner to see the crash")
        self.prefect.set(self.id, "SCHEDULED")

    def cancel(self) -> None:
        self.prefect.set(self.id, "CANCELLING")

    def ended(self) -> Ended:
        state = until(
            lambda: (state := self.prefect.state(self.id)) in FINAL and state, PATIENCE, "the end of the flow run"
        )
        until(
            lambda: not self.prefect.processes_of(self.id), what="the end of its process"
        )  # its log is all there then
        tries = self.prefect.tries(self.id, self.call.then or self.call)
        if state != "COMPLETED":
            return Ended(False, self.log(), tries)
        result: Any = self.prefect.result(self.id)
        assert isinstance(result, MlctlResult)
        return Ended(True, self.log(), tries, result.run, result.outputs, result.metrics)

    def rerun(self) -> Started:
        return FlowRun(self.harness, self.call)


class TestBehaviour(BehaviourContract):
    column = "prefect"

    @pytest.fixture
    def harness(self, prefect: Prefect, project: Path, home: Path) -> Harness:
        return PrefectHarness(prefect, project, home)
