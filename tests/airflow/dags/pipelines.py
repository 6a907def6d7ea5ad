"""The DAGs that tests/airflow runs by `dag.test()`: what tasks hand to each other, and bad input."""

from __future__ import annotations

from airflow.sdk import DAG, task

from mlctl_airflow import MlctlBatchInferenceOperator, MlctlProcessOperator, MlctlTrainOperator

PARAMS = {"say": "hello", "leave": "model", "show": ""}
JOB = {"code": "../code", "command": "python job.py", "params": PARAMS}  # relative to this file
FIRST = {**JOB, "kind": "process", "name": "first", "outputs": {"model": {}}}
SECOND = {**JOB, "kind": "train", "name": "second", "inputs": {"data": {}}, "outputs": {"model": {}}}


def dag(name: str) -> DAG:
    return DAG(name, schedule=None)


with dag("passes_on"):
    first = MlctlProcessOperator(task_id="first", job=FIRST)
    second = MlctlTrainOperator(task_id="second", job=SECOND, inputs={"data": first.output["model"]})
    third = {**SECOND, "kind": "batch-inference", "name": "third"}
    MlctlBatchInferenceOperator(task_id="third", job=third, inputs={"data": second.output["model"]})

with dag("mapped"):
    each = MlctlProcessOperator.partial(task_id="each", job=FIRST)
    each.expand(parameters=[{"say": "one"}, {"say": "{{ dag.dag_id }}"}])

with dag("verbatim"):  # a mapping is taken as it is, whatever it looks like
    said = "{{ dag.dag_id }} $(HOME) %(x)s 'quoted' \n new line \U0001f600"
    MlctlProcessOperator(task_id="one", job={**FIRST, "params": {**PARAMS, "say": said}})
with dag("templated"):
    MlctlProcessOperator(task_id="one", job=FIRST, parameters={"say": "{{ dag.dag_id }}"}, target="{{ 'local' }}")

with dag("connection"):
    shown = {"show": "AWS_ACCESS_KEY_ID AWS_DEFAULT_REGION"}
    keys = ["AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION"]
    MlctlProcessOperator(
        task_id="one", job={**FIRST, "secrets": keys}, parameters=shown, mlctl_conn_id="platform", retries=2
    )

BAD = {
    "wrong_param": {"job": {**FIRST, "params": {**PARAMS, "n": 1}}, "parameters": {"n": "many"}},
    "wrong_kind": {"job": {**FIRST, "kind": "train"}},
    "no_input": {"job": SECOND, "operator": MlctlTrainOperator},
    "no_mapping": {"job": FIRST, "parameters": "say=hello"},
    "no_connection": {"job": FIRST, "mlctl_conn_id": "nowhere"},
}
for name, given in BAD.items():
    with dag(f"bad_{name}"):
        operator = {**given}.pop("operator", MlctlProcessOperator)
        arguments = {key: value for key, value in given.items() if key != "operator"}
        operator(task_id="one", retries=2, **arguments)

with dag("bad_output"):
    made = MlctlProcessOperator(task_id="made", job=FIRST)
    MlctlTrainOperator(task_id="one", job=SECOND, inputs={"data": made.output["modle"]}, retries=2)

with dag("bad_skipped"):

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def no() -> bool:
        return False

    skipped = MlctlProcessOperator(task_id="made", job=FIRST)
    no() >> skipped
    MlctlTrainOperator(
        task_id="one", job=SECOND, inputs={"data": skipped.output["model"]}, retries=2, trigger_rule="all_done"
    )

with dag("decorated"):

    @task.mlctl(target="local", job={"outputs": {"table": {}}})
    def add(x: int, y: int = 1) -> dict[str, int]:
        import os

        print("in", os.environ["MLCTL_RUN"])
        return {"sum": x + y}

    @task.mlctl
    def show(value: dict[str, int]) -> str:
        return f"got {value['sum']}"

    @task.mlctl
    def progress(value: str) -> str:
        import sys

        print("half done", end="", file=sys.stderr)
        return value.upper()

    progress(show(add(40, y=2)))
with dag("bad_decorated"):

    @task.mlctl(retries=2)
    def takes(x: object) -> None:
        pass

    takes.override(task_id="one")({1, 2})
with dag("bad_returned"):

    @task.mlctl(retries=2)
    def returns() -> str:
        return "much" * 500_000

    returns.override(task_id="one")()
with dag("waits_for_a_gate"):
    gate = "i=0; until [ -e $HOME/gate ] || [ $i -gt 300 ]; do sleep 0.1; i=$((i+1)); done"
    waits = {"kind": "process", "name": "waits", "command": {"shell": gate}}
    MlctlProcessOperator(task_id="one", job=waits, deferrable=True)
with dag("waits_with_a_secret"):
    tells = {"kind": "process", "name": "tells", "secrets": ["TOLD"], "command": {"shell": "echo told $TOLD"}}
    MlctlProcessOperator(task_id="one", job=tells, deferrable=True)
with dag("waits_in_a_trigger"):
    MlctlProcessOperator(task_id="one", job=FIRST, parameters={"say": "deferred"}, deferrable=True)
