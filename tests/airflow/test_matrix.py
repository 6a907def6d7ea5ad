"""Airflow's row of the matrix: an operator, by `dag.test()`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from airflow_server import HERE
from test_dags import Done, dag_bag

from matrix import Ask, MatrixContract

pytestmark = pytest.mark.filterwarnings("default")  # Airflow's own


@pytest.fixture(scope="module")
def database() -> None:
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


class TestMatrix(MatrixContract):
    row = "airflow"

    @pytest.fixture
    def ask(self, database: None, monkeypatch: pytest.MonkeyPatch) -> Ask:
        def run(job: Path) -> tuple[str, Mapping[str, float]]:
            monkeypatch.setenv("MATRIX_JOB", str(job))
            bag = dag_bag(HERE / "dags" / "matrix.py")
            assert not bag.import_errors
            done = Done(bag.dags["matrix"], "", bag.dags["matrix"].test())
            assert done.states() == {"one": "success"}
            answer = done.xcom()
            return answer["run"], answer["metrics"]

        return run
