"""The contract's view of a workspace of Databricks', by its SDK alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.service.jobs import RunLifecycleStateV2State, RunType

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.config import Target
from mlctl.runs import Run
from mlctl.testing import Harness, Native


class Account(Harness):
    """Nothing is broken on purpose: what a fault is, the stand-in shows."""

    patience = 1800.0  # a cluster takes minutes

    def __init__(self, target: Target, home: Path) -> None:
        self.settings = Settings(target.name, target.settings, home)
        values = target.settings
        self.samples: Any = {"outputs.uri": {"outputs": {"model": {"uri": f"{values.get('root')}/contract"}}}}
        self.client = WorkspaceClient(host=values.get("host"), profile=values.get("profile"))
        self.began = int(time.time() * 1000) - 3_600_000  # clocks differ

    def make(self) -> Backend:
        return backend.load("databricks", self.settings)

    def native(self, run: Run) -> Native:
        listed = self.client.jobs.list_runs(run_type=RunType.SUBMIT_RUN, start_time_from=self.began)
        found = [each for each in listed if each.run_name == run.name]
        ended = RunLifecycleStateV2State.TERMINATED
        return Native(len(found), any(each.status is not None and each.status.state is not ended for each in found))
