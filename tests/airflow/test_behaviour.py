"""The contract of behaviour on a real Airflow, driven over its REST API: waiting on a worker, and in the triggerer."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow_harness import AirflowHarness
from airflow_server import Airflow

from behaviour import BehaviourContract, Harness


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
