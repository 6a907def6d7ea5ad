"""Pipelines of the contract of behaviour, as runs of the DAGs in dags/served."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from airflow_server import Airflow, DagRun

from behaviour import Call, Ended, Harness, Started


class AirflowHarness(Harness):
    """A pipeline is a run of one of the session's DAGs. `where` it waits is `here`, on a worker, or `deferred`."""

    def __init__(self, server: Airflow, where: str, folder: Path) -> None:
        self.server, self.where, self.folder, self.home = server, where, folder, server.mlctl

    def start(self, call: Call) -> Started:
        assert call.limit in (None, 8)  # the DAGs' own
        kind = "then" if call.then else "limit" if call.limit else call.retries
        return Pipeline(self, call, self.server.trigger(f"{self.where}_{kind}", call))


class Pipeline(Started):
    def __init__(self, harness: AirflowHarness, call: Call, run: DagRun) -> None:
        self.harness, self.call, self.run = harness, call, run
        self.deferred = harness.where == "deferred" and call.target == "local"

    def log(self) -> str:
        return self.run.log()

    def kill(self) -> None:
        """Of the triggerer, where the task is deferred: another is started. Else of the task's own process."""
        if self.deferred:
            self.run.until("deferred")
            self.harness.server.restart_triggerer(signal.SIGKILL)
        else:  # a run on the platform `held` is submitted, or its result is read: by a worker
            os.kill(self.run.process(), signal.SIGKILL)

    def cancel(self) -> None:
        if self.deferred:
            self.run.watched()
        self.run.mark("failed")

    def ended(self) -> Ended:
        good, tries = self.run.finished() == "success", self.run.task()["try_number"]
        if not self.call.then:
            log, task = self.log(), "one"
        else:
            log, task = self.log() + self.run.log("two"), "two"
        if not good:
            return Ended(False, log, tries)
        answer = self.run.xcom(task=task)
        return Ended(True, log, tries, answer["run"], answer["outputs"], answer["metrics"])

    def rerun(self) -> Started:
        self.run.clear()
        return self
