"""The three jobs of examples/01-local as an Airflow pipeline: data, a model, predictions.

Put this folder where Airflow looks for DAGs (`AIRFLOW__CORE__DAGS_FOLDER`), or run it without a scheduler:

    python airflow_dag.py
"""

from __future__ import annotations

from airflow.sdk import DAG

from mlctl_airflow import MlctlBatchInferenceOperator, MlctlProcessOperator, MlctlTrainOperator

with DAG("digits", schedule=None, params={"epochs": 10}) as dag:
    data = MlctlProcessOperator(task_id="data", job="jobs/process.yaml")
    train = MlctlTrainOperator(
        task_id="train",
        job="jobs/train.yaml",
        parameters={"epochs": "{{ params.epochs }}"},
        inputs={"data": data.output["data"]},
        retries=2,
    )
    predict = MlctlBatchInferenceOperator(
        task_id="predict",
        job="jobs/batch-inference.yaml",
        inputs={"model": train.output["model"], "data": data.output["data"]},
    )

if __name__ == "__main__":
    dag.test()
