"""A task on a real Airflow: from its start to its process, and from its process's end to its own, as Airflow notes them."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

import pytest
from airflow_server import Airflow, until

import latency

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
DAGS = {"BashOperator": "bash", "MlctlOperator": "here", "MlctlOperator, deferred": "deferred"}


def test_latency(server: Airflow, tmp_path: Path) -> None:
    until(lambda: {one["dag_id"] for one in server.ask("GET", "/api/v2/dags")["dags"]} >= set(DAGS.values()), 120)
    for subject, notes in latency.turns(list(DAGS), tmp_path):
        given = shlex.join(latency.command(notes))
        run = server.trigger(DAGS[subject], latency.job(tmp_path, notes), command=given)
        assert run.until("success", "failed", seconds=120) == "success", run.log()
        task = run.task()
        began, known = (datetime.fromisoformat(task[name]).timestamp() for name in ("start_date", "end_date"))
        latency.tell(subject, notes, began, known)
