"""The DAGs that tests/airflow drives over REST: one task each; what it runs comes with the DAG run's conf."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from mlctl_airflow import MlctlOperator

ONE = {
    "task_id": "one",
    "job": "{{ dag_run.conf['job'] }}",
    "parameters": "{{ dag_run.conf.get('parameters', {}) }}",
    "target": "{{ dag_run.conf.get('target', 'local') }}",
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}


def dag(name: str) -> DAG:
    return DAG(name, schedule=None, render_template_as_native_obj=True, is_paused_upon_creation=False)


with dag("here"):
    MlctlOperator(**ONE, deferrable=False)
with dag("deferred"):
    MlctlOperator(**ONE, deferrable=True, log_interval=1)
with dag("leave"):
    MlctlOperator(**ONE, deferrable=False, on_worker_stop="leave")
with dag("moves"):
    MlctlOperator(**{**ONE, "target": "{{ 'local' if ti.try_number == 1 else 'nowhere' }}"}, deferrable=False)
with dag("late"):
    MlctlOperator(**{**ONE, "retries": 0}, deferrable=False, execution_timeout=timedelta(seconds=3))
with dag("late_deferred"):
    MlctlOperator(**{**ONE, "retries": 0}, deferrable=True, execution_timeout=timedelta(seconds=3))
with dag("edited"):  # a test changes the number, as an edit of the DAG does
    number = Path(os.environ.get("RETRIES", ""))
    MlctlOperator(**{**ONE, "retries": int(number.read_text()) if number.is_file() else 2}, deferrable=False)
