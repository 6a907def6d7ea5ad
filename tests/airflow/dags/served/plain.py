"""The plainest task: what tests/airflow/bench_latency.py puts mlctl's beside."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("bash", schedule=None):
    BashOperator(task_id="one", bash_command="{{ dag_run.conf['parameters']['command'] }}")
