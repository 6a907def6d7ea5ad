"""The DAGs that the contract of behaviour drives: `here_1` waits on a worker and has one retry, `deferred_1` defers; the
calls themselves come with the DAG run's conf."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from mlctl_airflow import MlctlOperator


def task(name: str, job: str, **options: Any) -> MlctlOperator:
    return MlctlOperator(
        task_id=name,
        job=f"{{{{ dag_run.conf['{job}'] }}}}",
        parameters="{{ dag_run.conf['parameters'] }}" if name == "one" else None,
        target="{{ dag_run.conf['target'] }}",
        retry_delay=timedelta(seconds=1),
        log_interval=1,
        **options,
    )


for where, deferrable in (("here", False), ("deferred", True)):
    for number, options in {
        "0": {"retries": 0}, "1": {"retries": 1}, "2": {"retries": 2},
        "limit": {"retries": 0, "execution_timeout": timedelta(seconds=8)}, "then": {"retries": 0},
    }.items():  # fmt: skip
        with DAG(
            f"{where}_{number}", schedule=None, render_template_as_native_obj=True, is_paused_upon_creation=False
        ) as dag:
            one = task("one", "job", deferrable=deferrable, **options)
            if number == "then":
                task("two", "then", inputs={"before": one.output["model"]}, deferrable=deferrable, retries=0)
        globals()[dag.dag_id] = dag
