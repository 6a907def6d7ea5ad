"""A DAG that a test edits while Airflow serves it."""

from __future__ import annotations

from airflow.sdk import DAG

from mlctl_airflow import MlctlOperator

RETRIES = 2

with DAG("edited", schedule=None, render_template_as_native_obj=True):
    MlctlOperator(
        task_id="one",
        job="{{ dag_run.conf['job'] }}",
        parameters="{{ dag_run.conf['parameters'] }}",
        retries=RETRIES,
        deferrable=False,
    )
