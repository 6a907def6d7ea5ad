"""What is sent for each kind, held against the SDK's own request classes; and what is refused before anything is sent."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import goldens
import pytest
from databricks.sdk.service.jobs import RunLifeCycleState, RunLifecycleStateV2State, RunResultState, TerminationCodeCode
from databricks_model import Refused, checked
from databricks_standin import VOLUME

from mlctl import backend, jobfile
from mlctl.backend import Settings
from mlctl.backends.databricks import request, states
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unsupported
from mlctl.job import KINDS
from mlctl.runs import Plan, Reason, Stamp, State, Status

FACTS = {
    "account": "adb-123.4.azuredatabricks.net",
    "launcher": {"path": "launcher.py", "sha256": "1" * 64},
    "inputs": {},
}
STAMP = Stamp("2" * 64, "3" * 64, "command=123456 kind=abcdef", {"dag": "daily"}, "0123456789abcdef")
CLUSTERS: dict[str, dict[str, Any]] = {
    "process": {},  # serverless
    "train": {"new_cluster": {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 0}},
    "batch-inference": {"cluster": "0923-164208-meows279"},
}


def planned(tmp_path: Path, values: dict[str, Any] | None = None, **fields: Any) -> Plan:
    """A plan from facts that are written down: nothing is asked of anybody."""
    settings = Settings("dbx", {"root": f"{VOLUME}/runs", **(values or {})}, tmp_path)
    job = jobfile.load({"kind": "process", "name": "golden", "command": ["echo", "hi"], **fields})
    return backend.load("databricks", settings).plan(job.snapshot(tmp_path), FACTS, "golden-abcdefghijklmnop-0")


def golden_body(kind: str, tmp_path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": kind,
        "command": "python main.py --lr ${{params.lr}} --out ${{outputs.out}}",
        "params": {"lr": 0.1},
        "outputs": {"out": {}},
        "requirements": ["six==1.17.0"],
        "timeout": "1h",
    }
    plan = planned(tmp_path, CLUSTERS[kind], **fields)
    return request.stamped(plan.request["submit"], STAMP)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_request(kind: str, tmp_path: Path) -> None:
    golden = goldens.kept("databricks", kind)
    assert golden_body(kind, tmp_path) == golden
    checked(golden)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in items:
        if isinstance(data, dict):
            yield (*path, name)
        yield from places(value, (*path, name))


def damaged(data: Any, path: tuple[Any, ...], how: str) -> Any:
    """A copy in which one field has another name, or a value of no type that any field has."""
    changed = copy.deepcopy(data)
    inside = changed
    for name in path[:-1]:
        inside = inside[name]
    value = inside.pop(path[-1])
    inside |= {f"{path[-1]}_x": value} if how == "renamed" else {path[-1]: [{"no": "such"}, 7.5]}
    return changed


@pytest.mark.parametrize("how", ["renamed", "of another type"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_damaged_field_is_refused(kind: str, how: str) -> None:
    golden = goldens.kept("databricks", kind)
    paths = list(places(golden))
    assert len(paths) > 12
    for path in paths:
        with pytest.raises(Refused):
            checked(damaged(golden, path, how))
            print(f"{path} {how} was taken")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["run_name", "idempotency_token", "tasks"])
def test_missing_field_is_refused(kind: str, name: str) -> None:
    golden = goldens.kept("databricks", kind)
    del golden[name]
    with pytest.raises(Refused, match=name):
        checked(golden)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"root": "/tmp/x"}, "targets.dbx.root"),
        ({"root": "/Volumes/main/ml"}, "targets.dbx.root"),
        ({"root": "/Volumes/main/ml/mlctl/../x"}, "targets.dbx.root"),
        ({"cluster": 7}, "targets.dbx.cluster"),
        ({"cluster": "a", "new_cluster": {"spark_version": "x"}}, "targets.dbx.new_cluster"),
        (
            {"new_cluster": {"custom_tags": {f"t{n}": "x" for n in range(46)}}},
            "targets.dbx.new_cluster: custom_tags are 46, and Databricks takes 45",
        ),
        ({"root": f"/Volumes/main/ml/{'x' * 1000}"}, "targets.dbx.root"),
        ({"environment_version": "new"}, "targets.dbx.environment_version"),
        ({"rooot": "x"}, "did you mean 'root'"),
        ({"secrets": {"TOKEN": "env:TOKEN"}}, "targets.dbx.secrets.TOKEN"),
        ({}, "targets.dbx.secrets.TOKEN"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_setting_is_named(values: dict[str, Any], names: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=names):
        planned(tmp_path, values, secrets=["TOKEN"])


@pytest.mark.parametrize(
    ("values", "fields", "error", "names"),
    [
        ({}, {"inputs": {"d": "s3://b/x"}}, Unsupported, "inputs.d.*without Spark reaches file, volumes"),
        ({}, {"outputs": {"d": {"uri": "s3://b/x"}}}, Unsupported, "outputs.d.*Volumes only"),
        ({}, {"python": "3.9"}, Unsupported, "python.*3.10, 3.11, 3.12"),
        ({"cluster": "c"}, {"requirements": ["--pre", "six"]}, InvalidJob, "requirements.*no options"),
        ({}, {"platforms": {"databricks": {"sparc": True}}}, InvalidJob, "platforms.databricks.sparc"),
        ({}, {"platforms": {"databricks": {"spark": "yes"}}}, InvalidJob, "platforms.databricks.spark"),
        ({}, {"platforms": {"databricks": {"spark": True}}}, InvalidJob, "command.*python FILE"),
        ({}, {"command": ["echo", "a\0b"]}, InvalidJob, "null byte"),
        ({}, {"image": "x:1"}, Unsupported, "image"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused(
    values: dict[str, Any], fields: dict[str, Any], error: type[MlctlError], names: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=names):
        planned(tmp_path, values, **fields)


def test_missing_sdk_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk", None)
    made = backend.load("databricks", Settings("dbx", {"root": f"{VOLUME}/runs"}, tmp_path))
    with pytest.raises(InvalidConfig, match=r"targets\.dbx\.backend.*extra \[databricks\]"):
        made.resolve(jobfile.load({"kind": "process", "name": "golden", "command": ["echo"]}))


def test_sdk_is_imported_when_it_is_used(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from mlctl import backend; "
        "backend.load('databricks', backend.Settings('t', {'root': '/Volumes/a/b/c'}, pathlib.Path('.'))); "
        "sys.exit(any(name.split('.')[0] in ('databricks', 'requests') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, timeout=60).returncode == 0


def test_spark_takes_addresses_as_they_are(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        command="python main.py ${{inputs.d}}",
        inputs={"d": "s3://b/x"},
        platforms={"databricks": {"spark": True}},
    )
    assert plan.request["job"]["argv"] == ["python", "main.py", "s3://b/x"]
    assert plan.request["job"]["spark"]


def test_nothing_of_the_job_is_in_the_request(tmp_path: Path) -> None:
    text = "{{secrets/ml/token}}"
    plan = planned(tmp_path, command=["echo", "${{params.a}}"], params={"a": text}, env={"B": text})
    assert text not in json.dumps(plan.request["submit"])
    assert plan.request["job"]["argv"] == ["echo", text]


def test_long_stamp_loses_its_parts_first(tmp_path: Path) -> None:
    whole = planned(tmp_path).request["submit"]
    long = Stamp("2" * 64, "3" * 64, "x" * 500, {"a": "v" * 256, "b": "v" * 256}, "n")
    sent = Stamp.of_json(request.stamped(whole, long)["tasks"][0]["description"])
    assert (sent.parts, sent.values, sent.nonce) == ("", long.values, "n")
    with pytest.raises(InvalidJob, match="1000"):
        request.stamped(whole, Stamp("2" * 64, "3" * 64, "", dict.fromkeys("abcd", "v" * 256)))


# states


def record(**fields: Any) -> dict[str, Any]:
    return {"run_id": 7, "start_time": 1000, **fields}


def test_every_code_of_the_sdk_is_known() -> None:
    published = {code.value for code in TerminationCodeCode}
    assert states.CODES.keys() - published == {
        "CLUSTER_TERMINATED_BY_USER"
    }  # which the SDK's text has, and its enum not yet
    assert published <= states.CODES.keys()
    assert states.RESULTS.keys() == {result.value for result in RunResultState}
    old, new = ({state.value for state in each} for each in (RunLifeCycleState, RunLifecycleStateV2State))
    assert states.LIVE.keys() == (old | new) - {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}


@pytest.mark.parametrize(("code", "reason"), states.CODES.items())
def test_code(code: str, reason: Reason | None) -> None:
    ended = record(status={"state": "TERMINATED", "termination_details": {"code": code, "message": "why"}})
    status = states.status_of(ended)
    assert status.state.terminal
    assert (status.state is State.SUCCEEDED) == (code == "SUCCESS")
    assert status.reason == reason
    assert reason is None or "why" in status.message


@pytest.mark.parametrize("result", states.RESULTS)
def test_result_of_a_workspace_without_status(result: str) -> None:
    status = states.status_of(record(state={"life_cycle_state": "TERMINATED", "result_state": result}))
    assert status.reason == states.RESULTS[result]


def test_timeout_is_told_by_the_old_state_only() -> None:
    both = record(
        state={"life_cycle_state": "TERMINATED", "result_state": "TIMEDOUT"},
        status={"state": "TERMINATED", "termination_details": {"code": "CANCELED"}},
    )
    assert states.status_of(both).reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    "unknown",
    [
        {"status": {"state": "HIBERNATING"}},
        {"status": {"state": "TERMINATED", "termination_details": {"code": "SUNSPOTS"}}},
        {"state": {"life_cycle_state": "TERMINATED", "result_state": "MAYBE"}},
        {},
    ],
    ids=str,
)
def test_unknown_state_is_an_error(unknown: dict[str, Any]) -> None:
    with pytest.raises(MlctlError, match="doesn't know"):
        states.status_of(record(**unknown))


def test_status_is_of_the_live_states() -> None:
    live = {name: states.status_of(record(status={"state": name})) for name in states.LIVE}
    assert all(isinstance(status, Status) and not status.state.terminal for status in live.values())
