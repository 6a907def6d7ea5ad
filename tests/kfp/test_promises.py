"""What a step of a component promises, one promise a test. The step is a process, started as KFP's executor starts it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl
from kfp_harness import PREDICT, TRAIN, Steps, read, starts, until

from mlctl import api


@pytest.fixture
def plug(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the target a platform of the test's own: the local one, with methods added."""

    def add(methods: str) -> None:
        folder = steps.folder.parent / "plug"
        (folder / "plug-1.dist-info").mkdir(parents=True)
        (folder / "plug-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
        (folder / "plug-1.dist-info/entry_points.txt").write_text("[mlctl.backends]\nplug = plug:Plug\n")
        text = "import os, pathlib, time\nfrom mlctl.backends.local import Local\nclass Plug(Local):\n"
        (folder / "plug.py").write_text(text + methods)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        config = steps.folder / "mlctl.yaml"
        config.write_text(config.read_text().replace("backend: local", "backend: plug"))

    return add


@pytest.fixture
def holding(plug: Callable[[str], None]) -> None:
    """Submits wait for the file `submit` before, and for `return` after."""
    plug(
        "    def submit(self, plan, stamp):\n"
        "        self.hold('before', 'submit')\n"
        "        run = super().submit(plan, stamp)\n"
        "        self.hold('after', 'return')\n"
        "        return run\n"
        "    def hold(self, say, go):\n"
        "        traces = pathlib.Path(os.environ['TRACES'])\n"
        "        (traces / say).touch()\n"
        "        while not (traces / go).exists():\n"
        "            time.sleep(0.02)\n"
    )


JOB = {"job": "jobs/train.yaml"}
WAITS = {**JOB, "params": {"mode": "wait"}}


def test_success(steps: Steps, traces: Path) -> None:
    ended = steps.run({**JOB, "params": {"lr": 0.5}})
    assert (ended.code, ended.log) == (0, "training at 0.5\n"), ended.errors
    (run,) = starts(traces)
    model, metrics = ended.outputs["model"], ended.outputs["metrics"]
    assert type(model) is dsl.Model and type(metrics) is dsl.Metrics
    assert model.uri == str(steps.root / "run-1/train/model")
    assert read(f"{model.path}/model.json")["lr"] == 0.5
    assert model.metadata == {"mlctl_run": run, "mlctl_output": "model"}
    assert metrics.metadata == {"accuracy": 0.9, "loss": "nan"}
    assert [json.loads(line)["name"] for line in Path(metrics.path).read_text().splitlines()] == ["accuracy", "loss"]
    assert ended.outputs["run"] == run
    assert read(f"{ended.outputs['outputs']['model']}/model.json")["lr"] == 0.5


def test_user_failure(steps: Steps, traces: Path) -> None:
    ended = steps.run({**JOB, "params": {"mode": "fail"}})
    assert ended.code == 1
    assert ended.log == "training at 0.1\n"
    assert ended.errors.splitlines()[-1].startswith("mlctl: churn-") and "failed (error)" in ended.errors
    assert "Traceback" not in ended.errors
    assert not (steps.root / "run-1/train/executor_output.json").exists()
    assert len(starts(traces)) == 1


def test_retryable_failure(steps: Steps, traces: Path) -> None:
    """The job's `retry` is spent within the step; KFP's own retry starts the next attempt under the same key."""
    path = steps.folder / "jobs/train.yaml"
    path.write_text(f"{TRAIN}retry: {{infra: 1}}\n")
    ended = steps.run({**JOB, "params": {"mode": "preempted"}})
    assert ended.code == 0, ended.errors
    assert [url[-2:] for url in starts(traces)] == ["-0", "-1"]

    path.write_text(TRAIN)
    flaky = {**JOB, "params": {"mode": "flaky"}}
    assert steps.run(flaky).code == 1
    again = steps.run(flaky)
    assert again.code == 0, again.errors
    first, second = starts(traces)[2:]
    assert first.removesuffix("-0") == second.removesuffix("-1")


@pytest.mark.parametrize("stage", ["before the handler", "before the submit", "running", "ended"])
def test_adopt_after_crash(steps: Steps, traces: Path, home: Path, stage: str) -> None:
    step = steps.start(WAITS)
    if stage == "before the submit":
        until(lambda: (home / "packages").exists())
    elif stage != "before the handler":
        until(lambda: starts(traces))
    if stage == "ended":
        (traces / "go").touch()
        until(lambda: list(home.glob("runs/*/0/exit*")) or list(home.glob("runs/*/0/*exit*")))
    step.kill()
    again = steps.start(WAITS)
    until(lambda: starts(traces))
    (traces / "go").touch()
    ended = again.end()
    assert ended.code == 0, ended.errors
    assert len(starts(traces)) == 1, "one job, whatever was killed"
    assert ended.log == "training at 0.1\n", "all of its log"
    assert read(f"{ended.outputs['model'].path}/model.json")["params"]["mode"] == "wait"


@pytest.mark.parametrize("stage", ["before", "after"])
def test_adopt_after_crash_while_submitting(steps: Steps, traces: Path, holding: None, stage: str) -> None:
    """Killed just before the platform takes the run, or just after it did and before the step knows."""
    step = steps.start(WAITS)
    if stage == "after":
        (traces / "submit").touch()
    until(lambda: (traces / stage).exists())
    step.kill()
    for name in ("submit", "return", "go"):
        (traces / name).touch()
    ended = steps.run(WAITS)
    assert ended.code == 0, ended.errors
    assert len(starts(traces)) == 1


@pytest.mark.parametrize("found", [False, True], ids=["started", "found"])
def test_cancel(steps: Steps, traces: Path, found: bool) -> None:
    step = steps.start(WAITS)
    until(lambda: starts(traces))
    if found:
        step.kill()
        step = steps.start(WAITS)
        assert step.process.stdout and step.process.stdout.readline() == "training at 0.1\n"
    step.terminate()
    ended = step.end()
    (run,) = starts(traces)
    name = run.rpartition("/")[2]
    assert ended.code == 130
    assert ended.errors.splitlines()[-1] == f"mlctl: interrupted: {name} was cancelled"
    assert api.reach(run).status().state.value == "cancelled"


def test_cancel_racing_submit(steps: Steps, traces: Path, home: Path) -> None:
    """SIGTERM at moments from the start of the step to its job's: no job is left running, and none is started twice."""
    for index, seconds in enumerate((0.1, 0.25, 0.35, 0.4, 0.45, 0.5, 0.6)):
        step = steps.start(WAITS, run=f"run-{index}")
        with pytest.raises(Exception, match="timed out"):
            step.process.wait(seconds)
        step.terminate()
        ended = step.end()
        assert ended.code in (130, -15), ended.errors  # -15: Python itself had not started
        assert "Traceback" not in ended.errors
    for run in starts(traces):
        assert api.reach(run).status().state.value == "cancelled"


def test_cancel_while_submitting(steps: Steps, traces: Path, holding: None) -> None:
    """A SIGTERM that finds the submit under way lets it finish, and cancels what it started."""
    step = steps.start(WAITS)
    until(lambda: (traces / "before").exists())
    step.terminate()
    (traces / "submit").touch()
    (traces / "return").touch()
    ended = step.end()
    assert ended.code == 130, ended.errors
    assert "was cancelled" in ended.errors


def test_late_cancel_of_old_owner(steps: Steps, traces: Path) -> None:
    old = steps.start(WAITS)
    until(lambda: starts(traces))
    new = steps.start(WAITS)
    assert new.process.stdout and new.process.stdout.readline() == "training at 0.1\n"  # it found the run
    old.terminate()
    assert old.end().code == 130
    until(lambda: len(starts(traces)) == 2)
    (traces / "go").touch()
    ended = new.end()
    assert ended.code == 0, ended.errors
    assert [url[-2:] for url in starts(traces)] == ["-0", "-1"]


def test_timeout(steps: Steps, traces: Path) -> None:
    (steps.folder / "jobs/train.yaml").write_text(f"{TRAIN}timeout: 1s\n")
    ended = steps.run(WAITS)
    assert ended.code == 124
    assert "failed (timeout)" in ended.errors


def test_rerun(steps: Steps, traces: Path) -> None:
    """A new run of the pipeline is a new run of the job; so are another task, and another key in a loop."""
    for options in ({}, {"run": "run-2"}, {"task": "train-2"}):
        assert steps.run(JOB, **options).code == 0
    assert steps.run({**JOB, "key": "1"}).code == 0
    assert steps.run({**JOB, "key": "2"}).code == 0
    assert len({url.rpartition("/")[2] for url in starts(traces)}) == 5
    assert steps.run({**JOB, "key": "2"}).code == 0
    assert len(starts(traces)) == 5, "the same key again: its run was found"


def test_changed_job(steps: Steps, traces: Path) -> None:
    """The job's digest is part of the key, so a changed job is another run and the live one is never taken for it."""
    step = steps.start(WAITS)
    until(lambda: starts(traces))
    step.kill()
    (steps.folder / "code/new.py").write_text("changed")
    again = steps.start(WAITS)
    until(lambda: len(starts(traces)) == 2)
    (traces / "go").touch()
    assert again.end().code == 0
    assert len(set(starts(traces))) == 2
    old = api.reach(starts(traces)[0])
    assert old.ended(30) is not None


def test_outputs_passed_on(steps: Steps) -> None:
    trained = steps.run({**JOB, "params": {"lr": 0.25}})
    arguments = {"job": "jobs/predict.yaml", "input_model": trained.outputs["model"]}
    ended = steps.run(arguments, kind="batch-inference", task="predict")
    assert ended.code == 0, ended.errors
    assert type(ended.outputs["dataset"]) is dsl.Dataset
    assert Path(ended.outputs["dataset"].path, "predictions.csv").read_text() == "lr,0.25\n"


def test_outputs_of_a_platform_elsewhere(steps: Steps, plug: Callable[[str], None]) -> None:
    """An output that is no file of the pod stays where it is: the artifact says where, and a later step's job gets that."""
    plug(
        "    def result(self, run):\n"
        "        from mlctl.runs import Result\n"
        "        return Result({'model': 's3://bucket/' + run.name})\n"
    )
    ended = steps.run(JOB)
    assert ended.code == 0, ended.errors
    model = ended.outputs["model"]
    address = f"s3://bucket/{ended.outputs['run'].rpartition('/')[2]}"
    assert model.metadata["mlctl_address"] == ended.outputs["outputs"]["model"] == address
    assert model.uri == str(steps.root / "run-1/train/model")
    refused = steps.run({"job": "jobs/predict.yaml", "input_model": model}, kind="batch-inference", task="predict")
    assert refused.code == 2 and address in refused.errors, "the local platform reads no s3://"


def test_log_that_can_not_be_read_now(steps: Steps, plug: Callable[[str], None]) -> None:
    """A failed poll is no failed run."""
    plug(
        "    asked = 0\n"
        "    def logs(self, run, since=''):\n"
        "        self.asked += 1\n"
        "        if self.asked == 1:\n"
        "            from mlctl.errors import Unavailable\n"
        "            raise Unavailable('throttled')\n"
        "        return super().logs(run, since)\n"
    )
    ended = steps.run(JOB)
    assert ended.code == 0, ended.errors
    assert "throttled; trying again" in ended.errors


HOSTILE = ["a'; echo foo", 'quote " and \\', "two\nlines\n", "ünï \u202e 漢", "$(HOME) $HOME `id`", "{{workflow.name}}",
           "{{secrets/a/b}}", "x" * 10_000, "--out=/tmp", '{"Concat": ["a"]}', "5", "true", " "]  # fmt: skip


def test_hostile_parameters(steps: Steps) -> None:
    """They arrive as sent. KFP's own placeholders are KFP's: it replaces `{{$...}}` in a value before any step sees it."""
    extra = {f"key {index} \"'\\": text for index, text in enumerate(HOSTILE)}
    ended = steps.run({**JOB, "params": {"note": "\n".join(HOSTILE), "extra": extra}})
    assert ended.code == 0, ended.errors
    found = read(f"{ended.outputs['model'].path}/model.json")
    assert found["note"] == "\n".join(HOSTILE)
    assert found["params"]["extra"] == extra


@pytest.mark.parametrize("source", ["env", "file"])
def test_secrets_masked(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("THE_TOKEN", "hunter2-hunter2")
    (tmp_path / "token").write_text("hunter2-hunter2\n")
    where = "env:THE_TOKEN" if source == "env" else f"file:{tmp_path}/token"
    (steps.folder / "mlctl.yaml").write_text(
        f"targets: {{here: {{backend: local, inherit_env: [TRACES], secrets: {{TOKEN: '{where}'}}}}}}\n"
        "profiles: {dev: [{target: here}]}\n"
    )
    (steps.folder / "jobs/train.yaml").write_text(f"{TRAIN}secrets: [TOKEN]\n")
    ended = steps.run({**JOB, "params": {"mode": "secret"}})
    assert ended.code == 0, ended.errors
    assert "the token is ***" in ended.log
    for path in steps.root.rglob("*"):
        assert path.is_dir() or "hunter2" not in path.read_text()
    assert "hunter2" not in ended.log + ended.errors


# ---- Bad input: at once, one line, an exit code, no traceback


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"job": "jobs/none.yaml"}, "jobs/none.yaml"),
        ({"job": ""}, "job"),
        ({**JOB, "target": "moon"}, "moon"),
        ({**JOB, "config": "none.yaml"}, "none.yaml"),
        ({**JOB, "params": {"lrr": 1}}, "lrr"),
        ({**JOB, "params": {"lr": "fast"}}, "lr"),
        ({**JOB, "inputs": {"data": "x"}}, "data"),
        ({**JOB, "output": "modle"}, "output: got 'modle', expected one of model"),
        ({**JOB, "input_model_as": "base"}, "input_model_as: got 'base'"),
        ({"job": "jobs/predict.yaml"}, "is batch-inference, and this component runs train jobs; use batch-inference.yaml"),
        ({**JOB, "pipeline_job_id": "{{left as it was}}"}, "pipeline_job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER"),
        ({**JOB, "pipeline_task_name": ""}, "pipeline_task_name=dsl.PIPELINE_TASK_NAME_PLACEHOLDER"),
    ],
)  # fmt: skip
def test_bad_input(steps: Steps, home: Path, arguments: dict[str, object], says: str) -> None:
    ended = steps.run(arguments)
    assert ended.code == 2
    assert len(ended.errors.splitlines()) == 1 and ended.errors.startswith("mlctl: "), ended.errors
    assert says in ended.errors
    assert ended.log == "" and not (home / "runs").exists()


def test_which_input_and_which_output(steps: Steps) -> None:
    """Where more than one could be meant, the step asks; named, it goes."""
    two = PREDICT.replace(
        "inputs: {model: {type: model}", "inputs: {model: {type: model}, other: {type: model, uri: ../code}"
    )
    (steps.folder / "jobs/predict.yaml").write_text(two.replace("{predictions: {}}", "{predictions: {}, report: {}}"))
    model = steps.run(JOB).outputs["model"]
    arguments = {"job": "jobs/predict.yaml", "input_model": model, "output": "predictions"}
    ended = steps.run(arguments, kind="batch-inference")
    assert ended.code == 2 and "name it: input_model_as" in ended.errors
    arguments["input_model_as"] = "model"
    assert steps.run(arguments, kind="batch-inference").code == 0
    del arguments["output"]
    ended = steps.run(arguments, kind="batch-inference")
    assert ended.code == 2 and "It has predictions, report; name it: output" in ended.errors
    arguments |= {"output": "report", "inputs": {"model": "code"}}
    ended = steps.run(arguments, kind="batch-inference")
    assert ended.code == 2 and "feed it once" in ended.errors


# ---- How job, code and configuration reach the pod


@pytest.mark.parametrize("form", ["folder", "archive", "damaged"])
def test_project_as_an_artifact(steps: Steps, traces: Path, tmp_path: Path, form: str) -> None:
    project, elsewhere = steps.folder, tmp_path / "elsewhere"
    elsewhere.mkdir()
    steps.folder = elsewhere
    path = str(project)
    if form != "folder":
        path = shutil.make_archive(str(tmp_path / "project"), "gztar", project)
    if form == "damaged":
        os.truncate(path, 100)
    given = {**JOB, "project": dsl.Artifact(name="project", uri=path)}
    ended = steps.run(given)
    if form == "damaged":
        assert ended.code == 2 and "expected a folder or a .tar.gz of one" in ended.errors
        return
    assert ended.code == 0, ended.errors
    assert steps.run(given).code == 0
    assert len(starts(traces)) == 1, "the second try found the run of the first"


def test_uris_of_a_cluster() -> None:
    """The paths at which KFP's launcher puts artifacts, and what a job gets of them."""
    from mlctl_kfp.executor import Given

    uris = ("gs://b/m", "s3://b/m", "minio://b/m", "oci://r/m:1", "/local/m")
    paths = ["/gcs/b/m", "/s3/b/m", "/minio/b/m", "/oci/r_m:1/models", "/local/m"]
    assert [str(Given("m", uri, {}).path) for uri in uris] == paths
    assert Given("m", "s3://b/m", {}).address(here=False) == "s3://b/m"
    assert Given("m", "s3://b/m", {}).address(here=True) == "/s3/b/m"
    assert Given("m", "minio://b/m", {"mlctl_address": "s3://own/m"}).address(here=True) == "s3://own/m"
