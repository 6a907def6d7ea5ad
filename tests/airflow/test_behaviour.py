"""The contract of behaviour on a real Airflow, driven over its REST API: waiting on a worker, and in the triggerer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from airflow_server import Airflow, DagRun, kill, until

from behaviour import BehaviourContract, Call, Ended, Harness, Started


class AirflowHarness(Harness):
    """One DAG run of the session's server for each pipeline."""

    def __init__(self, server: Airflow, where: str, folder: Path) -> None:
        self.server, self.where, self.folder, self.home = server, where, folder, server.mlctl

    def start(self, call: Call) -> Started:
        kind = "then" if call.then else "limit" if call.limit else str(call.retries)
        conf = {"parameters": dict(call.params), "target": call.target}
        if call.then:
            conf["then"] = str(call.then.job)
        run = self.server.trigger(f"{self.where}_{kind}", call.job, **conf)
        return Pipeline(self, call, run)


class Pipeline(Started):
    def __init__(self, harness: AirflowHarness, call: Call, run: DagRun) -> None:
        self.harness, self.call, self.run = harness, call, run

    def log(self) -> str:
        tries = range(1, self.run.task()["try_number"] + 1)
        return "\n".join(self.run.log(tries=number) for number in tries)

    def kill(self) -> None:
        """Of the task's own process; where it is deferred, of the triggerer, which is then started again."""
        if self.harness.where == "deferred" and self.call.target != "held":
            self.run.until("deferred")
            assert kill("triggerer")
            self.harness.server.start("triggerer")
        else:
            os.kill(until(lambda: int(self.run.task()["pid"] or 0)), signal.SIGKILL)

    def cancel(self) -> None:
        self.run.mark("failed")

    def ended(self) -> Ended:
        self.run.finished()
        good = self.run.state() == "success"
        tries = self.run.task()["try_number"]
        if not good:
            return Ended(False, self.log(), tries)
        task = "two" if self.call.then else "one"
        if self.run.state(task) != "success":
            return Ended(False, self.log() + self.run.log(task), tries)
        answer = self.run.xcom(task=task)
        return Ended(True, self.log(), tries, answer["run"], answer["outputs"], answer["metrics"])

    def rerun(self) -> Started:
        self.run.clear()
        return self


class TestOnAWorker(BehaviourContract):
    column = "airflow"

    @pytest.fixture
    def harness(self, server: Airflow, project: Path) -> Harness:
        return AirflowHarness(server, "here", project)


class TestDeferred(BehaviourContract):
    column = "airflow-deferred"

    @pytest.fixture
    def harness(self, server: Airflow, project: Path) -> Harness:
        return AirflowHarness(server, "deferred", project)
