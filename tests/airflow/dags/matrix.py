"""The DAG of Airflow's row of the matrix; the test says which job."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from mlctl_airflow import MlctlTrainOperator

with DAG("matrix", schedule=None):
    MlctlTrainOperator(task_id="one", job=os.environ.get("MATRIX_JOB", "jobs/train.yaml"))
