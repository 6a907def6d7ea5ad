"""The DAGs that are driven over REST: one task each, whose call comes with the DAG run's conf.

`here_2` waits on a worker and has two retries, `deferred_2` waits in the triggerer; `here_limit` has eight seconds;
`here_then` has a task `two` after it, which takes its output.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from mlctl_airflow import MlctlOperator


def dag(name: str, then: bool = False, **options: Any) -> None:
    with DAG(name, schedule=None, render_template_as_native_obj=True) as made:
        options = {"target": "{{ dag_run.conf['target'] }}", "retry_delay": timedelta(0), "log_interval": 1, **options}
        job, parameters = "{{ dag_run.conf['job'] }}", "{{ dag_run.conf['parameters'] }}"
        one = MlctlOperator(task_id="one", job=job, parameters=parameters, **options)
        if then:
            job, inputs = "{{ dag_run.conf['then'] }}", {"before": one.output["model"]}
            MlctlOperator(task_id="two", job=job, inputs=inputs, **options)
    globals()[name] = made


for where, deferrable in (("here", False), ("deferred", True)):
    for retries in range(3):
        dag(f"{where}_{retries}", deferrable=deferrable, retries=retries)
    dag(f"{where}_limit", deferrable=deferrable, execution_timeout=timedelta(seconds=8))
    dag(f"{where}_then", deferrable=deferrable, then=True)

dag("leave", deferrable=False, retries=2, on_worker_stop="leave")
dag("moves", deferrable=False, retries=1, target="{{ dag_run.conf['target'] if ti.try_number == 1 else 'nowhere' }}")
