"""The three jobs as an Airflow DAG: data, a model, predictions.

Have Airflow look for DAGs in this folder (`AIRFLOW__CORE__DAGS_FOLDER`; a copy lacks the jobs, which are a link to 01-local's),
or run it without a scheduler:

    python airflow_dag.py
"""

from airflow.sdk import DAG

from mlctl_airflow import MlctlBatchInferenceOperator, MlctlProcessOperator, MlctlTrainOperator

with DAG("digits", schedule=None) as dag:
    data = MlctlProcessOperator(task_id="data", job="jobs/process.yaml")
    train = MlctlTrainOperator(task_id="train", job="jobs/train.yaml", inputs={"data": data.output["data"]}, retries=2)
    predict = MlctlBatchInferenceOperator(
        task_id="predict",
        job="jobs/batch-inference.yaml",
        inputs={"data": data.output["data"], "model": train.output["model"]},
    )

if __name__ == "__main__":
    dag.test()
