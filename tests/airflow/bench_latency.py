"""A task on a real Airflow: from its start to its process, and from its process's end to its own, as Airflow notes them."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

import pytest
from airflow_server import Airflow

import latency
from behaviour import Call

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
DAGS = {"BashOperator": "bash", "MlctlOperator": "here_0", "MlctlOperator, deferred": "deferred_0"}


def test_latency(server: Airflow, tmp_path: Path) -> None:
    for subject, notes in latency.turns(list(DAGS), tmp_path):
        params = {"command": shlex.join(latency.command(notes))} if subject == "BashOperator" else {}
        run = server.trigger(DAGS[subject], Call(latency.job(tmp_path, notes), params))
        assert run.finished() == "success", run.log()
        task = run.task()
        began, known = (datetime.fromisoformat(task[name]).timestamp() for name in ("start_date", "end_date"))
        latency.tell(subject, notes, began, known)
