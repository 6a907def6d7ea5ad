"""What tasks hand to each other, what their input may be, and how they refuse it: by `dag.test()`, without a scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_server import AIRFLOW, HERE

from mlctl.runs import Stamp

pytestmark = pytest.mark.filterwarnings("ignore")  # Airflow's own, of what it moves, and still has


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    """The DAGs of pipelines.py, and a database for `dag.test()`."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    bag = dag_bag(HERE / "dags" / "pipelines.py")
    assert not bag.import_errors
    return bag.dags


def dag_bag(file: Path) -> Any:
    """Airflow's reading of one DAG file."""
    if AIRFLOW < (3, 2):
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.models.dagbag import DagBag, sync_bag_to_db

        bag = DagBag(str(file), bundle_path=file.parent)
        DagBundlesManager().sync_bundles_to_db()
        sync_bag_to_db(bag, "dags-folder", None)
        return bag
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(file), bundle_path=file.parent, bundle_name="dags-folder")


class Done:
    """What came of a `dag.test()`."""

    def __init__(self, dag: Any, log: str, run: Any) -> None:
        self.dag, self.log, self.run = dag, log, run

    def states(self) -> dict[str, str]:
        return {f"{ti.task_id}{ti.map_index if ti.map_index >= 0 else ''}": str(ti.state) for ti in self.tasks()}

    def tasks(self) -> list[Any]:
        return list(self.run.get_task_instances())

    def xcom(self, task: str = "one", key: str = "return_value", index: int = -1) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            row = XComModel.get_many(
                run_id=self.run.run_id, dag_ids=self.dag.dag_id, task_ids=task, key=key, map_indexes=index
            )
            found = session.scalars(row).first()
            return XComModel.deserialize_value(found) if found else None

    def said(self, task: str = "one", index: int = -1) -> str:
        """What the job was given as `say`: it leaves it as its output."""
        return Path(self.xcom(task, "model", index), "model.txt").read_text()


@pytest.fixture
def tested(dags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Any:
    def test(name: str) -> Done:
        run = dags[name].test()
        captured = capfd.readouterr()
        return Done(dags[name], captured.out + captured.err, run)

    return test


def test_outputs_passed_on(tested: Any) -> None:
    """One XCom for each output feeds the next task."""
    done = tested("passes_on")
    assert done.states() == {"first": "success", "second": "success", "third": "success"}
    assert done.xcom("second")["outputs"] == {"model": done.xcom("second", "model")}


def test_expand(tested: Any) -> None:
    """Mapped tasks are runs of their own."""
    done = tested("mapped")
    assert done.states() == {"each0": "success", "each1": "success"}
    assert [done.said("each", index) for index in (0, 1)] == ["one", "mapped"]


def test_templates(tested: Any) -> None:
    """Parameters and target are templated; a job's mapping is not."""
    assert tested("templated").said() == "templated"
    assert tested("verbatim").said() == "{{ dag.dag_id }} $(HOME) %(x)s 'quoted' \n new line \U0001f600"


def test_connections(tested: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of type mlctl names the target; the target names an existing connection, whose credentials it gets."""
    config = tmp_path / "mlctl.yaml"
    config.write_text("targets: {cloud: {backend: local, conn_id: aws_default}}")
    extra = {"config": str(config), "target": "cloud"}
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM", json.dumps({"conn_type": "mlctl", "extra": extra}))
    aws = {"conn_type": "aws", "login": "AKIA-EXAMPLE", "password": "s3cret-key", "extra": {"region_name": "eu-west-9"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # so that it is undone after the test
    done = tested("connection")
    assert done.states() == {"one": "success"}
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("AKIA-EXAMPLE", "s3cret-key")
    assert "AWS_DEFAULT_REGION ***" in done.log and "eu-west-9" not in done.log  # it arrived, and is a secret here


@pytest.mark.parametrize(
    "target",
    [
        {"backend": "sagemaker", "profile": "team"},
        {"backend": "databricks", "root": "/Volumes/main/ml/mlctl", "profile": "team"},
        {"backend": "kubernetes", "kubeconfig": "~/.kube/config"},
    ],
)
def test_two_ways_in(tested: Any, target: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beside a setting that names credentials, too: refused, whatever the platform would make of it."""
    config = tmp_path / "mlctl.yaml"
    config.write_text(json.dumps({"targets": {"cloud": {**target, "conn_id": "platform"}}}))
    extra = {"config": str(config), "target": "cloud"}
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM", json.dumps({"conn_type": "mlctl", "extra": extra}))
    done = tested("connection")
    assert done.states() == {"one": "failed"}
    name = list(target)[-1]
    assert f"targets.cloud.{name}: there is conn_id: too, and each names credentials; choose one" in done.log


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_param", "got 'many', expected an integer"),
        ("wrong_kind", "got train, and this task runs process; use MlctlTrainOperator"),
        ("no_input", "has no uri"),
        ("no_mapping", "parameters: got 'say=hello', expected a mapping"),
        ("no_connection", "Airflow has no connection 'nowhere'"),
        ("output", "task 'made' left no output 'modle'"),
        ("skipped", "task 'made' left no output 'model': it was skipped"),
        ("decorated", "its arguments can't be sent: Object of type set is not JSON serializable"),
        ("returned", "leave what is large in one of its outputs"),
    ],
)
def test_bad_input(tested: Any, name: str, says: str) -> None:
    """Refused at once, in one line, without a retry, and without a frame of ours below Airflow's."""
    done = tested(f"bad_{name}")
    one = next(ti for ti in done.tasks() if ti.task_id == "one")
    assert (str(one.state), one.try_number) == ("failed", 1)
    assert says in done.log


def test_deferred(tested: Any) -> None:
    """A task waits in a trigger in `dag.test()`, too, which keeps nothing of a deferral but the trigger and its event."""
    done = tested("waits_in_a_trigger")
    assert done.states() == {"one": "success"} and done.said() == "deferred"


def test_secrets_of_a_deferred_task(tested: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is shown at the end, and masked by mlctl itself: `dag.test()` has no masking of Airflow's."""
    monkeypatch.setenv("TOLD", "not-to-be-shown")
    done = tested("waits_with_a_secret")
    assert done.states() == {"one": "success"}
    assert "told ***" in done.log and "not-to-be-shown" not in done.log


def test_what_a_triggerer_cannot_watch(tested: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A triggerer that lacks a library, a right, or uses another connection of that type: the run goes on, and the worker
    waits for it."""
    from mlctl.errors import InvalidConfig
    from mlctl_airflow.operators import MlctlOperator
    from mlctl_airflow.triggers import _Target

    async def refused(self: Any, run: Any) -> Any:
        raise InvalidConfig("not from here")

    made, followed = [], MlctlOperator._followed

    def follow(self: Any, *args: Any, **found: Any) -> Any:
        made.append(found)
        if found:  # not to be succeeded before the worker waits for it
            (tmp_path / "gate").touch()
        return followed(self, *args, **found)

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_Target, "poller", refused)
    monkeypatch.setattr(MlctlOperator, "_followed", follow)
    done = tested("waits_for_a_gate")
    assert done.states() == {"one": "success"} and len(made) == 2
    assert "this worker waits: the triggerer can't watch it: not from here" in done.log


def test_run_out_of_reach_after_a_deferral(tested: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No try is lost by it: the worker looks again, until it sees how the run ended."""
    from mlctl.backends.local import Local
    from mlctl.errors import Unavailable
    from mlctl_airflow.deferral import Deferral

    reach, status = Deferral.reach, Local.status
    hidden: list[Path] = []  # a file is where its folder was, which is a disk's trouble and no missing run
    refused: list[Unavailable] = []

    def reaching(self: Deferral) -> Any:
        backend = reach(self)
        if not refused:
            stem = backend.settings.home / "runs" / self.run.rpartition("/")[2].rpartition("-")[0]  # type: ignore[attr-defined]
            hidden.append(stem.rename(stem.with_name("hidden")))
            stem.touch()
            hidden.append(stem)
        return backend

    def look(self: Local, runs: Any) -> Any:
        answer = status(self, runs)
        refused.extend(one for one in answer.values() if isinstance(one, Unavailable))
        if hidden and len(refused) == 3:
            away, stem = hidden
            stem.unlink()
            away.rename(stem)
            hidden.clear()
        return answer

    monkeypatch.setattr(Deferral, "reach", reaching)
    monkeypatch.setattr(Local, "status", look)
    done = tested("waits_in_a_trigger")
    assert done.states() == {"one": "success"} and done.said() == "deferred"
    assert len(refused) == 3 and "this worker waits: its end can't be seen from here yet" in done.log


def test_decorated(tested: Any) -> None:
    """A function's body runs as the job; its arguments go in and what it returns comes back."""
    done = tested("decorated")
    assert done.xcom("add") == {"sum": 42} and done.xcom("show") == "got 42"
    assert done.xcom("progress") == "GOT 42"  # beside what had no end of a line
    assert "in local://" in done.log and Path(done.xcom("add", "table")).is_dir()


def test_parsing_is_cheap() -> None:
    """Over airflow.sdk the operators import no SDK, no platform and no reader of job files."""
    code = (
        "import sys, airflow.sdk, mlctl_airflow.moved, time; before = set(sys.modules); at = time.perf_counter();"
        "from mlctl_airflow import MlctlTrainOperator; print(time.perf_counter() - at, *sorted(set(sys.modules) - before))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("boto3", "jsonschema", "mlctl.api", "mlctl.lifecycle", "mlctl.job", "mlctl.backends")
    assert not [name for name in answer[1:] if name.startswith(heavy)], answer


def test_example_parses(dags: dict[str, Any]) -> None:
    """The example's DAG, and that its jobs are where it says."""
    folder = HERE.parent.parent / "examples" / "04-orchestrators"
    bag = dag_bag(folder / "airflow_dag.py")
    assert not bag.import_errors and list(bag.dags) == ["digits"]
    assert all((folder / task.job).is_file() for task in bag.dags["digits"].tasks)


def test_provider() -> None:
    """Airflow lists the provider and finds each of its parts."""
    from airflow.providers_manager import ProvidersManager

    found = ProvidersManager()
    assert "mlctl" in found.providers
    assert "mlctl" in found.hooks and found.hooks["mlctl"] is not None
    assert "mlctl" in dict(found.taskflow_decorators)
    assert "mlctl_airflow.operators.RunLink" in found.extra_links_class_names


@pytest.mark.parametrize(
    ("kept", "own"),
    [
        ({"retries": "2", "clear_number": "0", "began": "now"}, True),
        ({"retries": "1", "clear_number": "0", "began": "now"}, True),  # an edit of the DAG
        ({"retries": "2", "clear_number": "1", "began": "then"}, True),  # a clear of another task
        ({"retries": "1", "clear_number": "1", "began": "then"}, False),  # a clear after an edit
        ({"retries": "2", "clear_number": "0", "began": "then"}, False),  # of a DAG run that was deleted
        ({"retries": "2", "clear_number": "0"}, True),  # of an earlier mlctl
        ({}, True),
    ],
)
def test_whose_an_ended_run_is(kept: dict[str, str], own: bool) -> None:
    """By what is kept with it; under a key of the user's, where nothing is, whoever asks has it."""
    from mlctl_airflow import identity

    stamp = Stamp("key", "digest", values=kept)
    assert identity.accepts({"retries": "2", "clear_number": "0", "began": "now"})(stamp) is own
    assert identity.accepts({})(stamp)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on_worker_stop": "stop"}, "on_worker_stop: got 'stop', expected cancel or leave"),
        ({"log_interval": 0}, "log_interval: got 0, expected seconds above 0, or None"),
        ({"log_interval": -1.5}, "log_interval: got -1.5, expected seconds above 0, or None"),
    ],
)
def test_arguments_that_no_task_has(given: dict[str, Any], said: str) -> None:
    from mlctl_airflow.operators import MlctlTrainOperator

    with pytest.raises(ValueError, match=f"^{said}$"):
        MlctlTrainOperator(task_id="t", job="job.yaml", **given)
