"""The DAG whose deferred tasks bench/drivers/triggers.py writes to the database."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("bench", schedule=None):
    EmptyOperator(task_id="one")
