"""What a step of a component does beside the contract of behaviour: exit codes, artifacts, keys, bad input, the project.

The step is a process, started as KFP's executor starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl
from kfp_containers import BIN
from kfp_harness import PATIENCE, PREDICT, TRAIN, Steps, read, starts, until

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


@pytest.mark.parametrize(
    ("params", "fields", "code", "says"),
    [
        ({"mode": "fail"}, "", 1, "failed (error)"),
        ({"mode": "preempted"}, "", 75, "failed (infra)"),
        ({"mode": "wait"}, "timeout: 5s\n", 124, "failed (timeout)"),
    ],
)
def test_exit_code(steps: Steps, traces: Path, params: dict[str, str], fields: str, code: int, says: str) -> None:
    """It tells what happened; KFP reads nothing of a step that failed."""
    (steps.folder / "jobs/train.yaml").write_text(TRAIN + fields)
    ended = steps.run({**JOB, "params": params})
    assert ended.code == code and ended.log.startswith("training at 0.1\n")
    last = ended.errors.splitlines()[-1]
    assert last.startswith("mlctl: churn-") and says in last and "Traceback" not in ended.errors
    assert not (steps.root / "run-1/train/executor_output.json").exists()


def test_cancel_of_a_run_that_was_found(steps: Steps, traces: Path) -> None:
    """SIGTERM ends it, and no other is started."""
    step = steps.start(WAITS)
    until(lambda: starts(traces))
    step.kill()
    step = steps.start(WAITS)
    assert step.process.stdout and step.process.stdout.readline() == "training at 0.1\n"
    step.terminate()
    ended = step.end()
    (run,) = starts(traces)
    assert (ended.code, ended.errors.splitlines()[-1]) == (130, f"mlctl: {run.rpartition('/')[2]}: cancelled")
    assert api.reach(run).status().state.value == "cancelled"


def test_sigterm_at_any_moment(steps: Steps, traces: Path, home: Path) -> None:
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


SLOW = """\
import os, signal, sys
from mlctl.cli import run
from mlctl_kfp import launcher

class Slow(launcher.Drive):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.started.result(60)
        os.kill(os.getpid(), signal.SIGTERM)

launcher.Drive = Slow
sys.exit(run(sys.argv[1:]))
"""


def test_sigterm_before_the_step_waits(steps: Steps, home: Path) -> None:
    """Of two threads one may be kept waiting while the other submits: the job that is there by then is cancelled."""
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            subprocess, "Popen", lambda words, **rest: popen([sys.executable, "-c", SLOW, *words[1:]], **rest)
        )
        step = steps.start(WAITS)
    ended = step.end()
    (run,) = (home / "runs").glob("*/0")
    assert api.reach(f"{run.parent.name}-0").status().state.value == "cancelled"
    assert ended.code == 130 and "Traceback" not in ended.errors, ended.errors


def test_key(steps: Steps, traces: Path) -> None:
    """A new run of the pipeline is a new run of the job; so are another task, and another `key` in a loop."""
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
    assert old.ended(PATIENCE) is not None


def test_an_output_that_can_not_be_copied(steps: Steps, traces: Path) -> None:
    """One line, and no other try would change it."""
    script = steps.folder / "code/train.py"
    script.write_text(script.read_text() + "os.symlink('gone', out / 'latest')\n")
    ended = steps.run(JOB)
    assert ended.code == 2 and ended.errors.splitlines()[-1].endswith("/outputs/model/latest: is a link to nothing")
    assert "Traceback" not in ended.errors
    assert not (steps.root / "run-1/train/executor_output.json").exists()


@pytest.mark.parametrize("store", ["s3://bucket", "/Volumes/main/ml/models"])
def test_outputs_of_a_platform_elsewhere(steps: Steps, plug: Callable[[str], None], store: str) -> None:
    """An output that is no file of the pod stays where it is: the artifact says where, and a later step's job gets that."""
    plug(
        "    def result(self, run):\n"
        "        from mlctl.runs import Result\n"
        f"        return Result({{'model': '{store}/' + run.name}})\n"
    )
    ended = steps.run(JOB)
    assert ended.code == 0, ended.errors
    model = ended.outputs["model"]
    address = f"{store}/{ended.outputs['run'].rpartition('/')[2]}"
    assert model.metadata["mlctl_address"] == ended.outputs["outputs"]["model"] == address
    assert model.uri == str(steps.root / "run-1/train/model")
    refused = steps.run({"job": "jobs/predict.yaml", "input_model": model}, kind="batch-inference", task="predict")
    assert refused.code == 2 and address in refused.errors, "the local platform reads neither"


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
    assert "the log can't be read now: throttled" in ended.errors


# ---- Values of the pipeline inside a mapping or a text, which KFP fills in where it makes the step's command


def channel(name: str) -> str:
    """What KFP's compiler writes for a value of the pipeline in the midst of an argument."""
    return f"{{{{$.inputs.parameters['pipelinechannel--{name}']}}}}"


FILLED = {
    **JOB, "params": {"lr": channel("lr"), "note": channel("note"), "extra": {"x": channel("lr")}}, "key": f"a-{channel('lr')}",
}  # fmt: skip


def test_values_of_the_pipeline(steps: Steps) -> None:
    ended = steps.run({**FILLED, "pipelinechannel--lr": 0.5, "pipelinechannel--note": "ünï {x} $(Y) 'q' --z"})
    assert ended.code == 0, ended.errors
    model = read(f"{ended.outputs['model'].path}/model.json")
    assert (model["lr"], model["note"], model["params"]["extra"]) == (0.5, "ünï {x} $(Y) 'q' --z", {"x": "0.5"})


@pytest.mark.parametrize("value", ['x", "lr": "9', 'a "quote"', "a\\b", "two\nlines", {"a": 1}])
def test_value_of_the_pipeline_that_kfp_would_make_another_of(steps: Steps, home: Path, value: object) -> None:
    """KFP quotes nothing: one of these would set another parameter than it is for."""
    ended = steps.run({**FILLED, "pipelinechannel--lr": 0.5, "pipelinechannel--note": value})
    assert ended.code == 2 and not (home / "runs").exists()
    assert len(ended.errors.splitlines()) == 1 and "pass the mapping whole" in ended.errors


def test_value_of_the_pipeline_that_kfp_left_out(tmp_path: Path) -> None:
    """A server's launcher that has no order in which it fills them in may leave some: the step fills in the same text, as what a
    retry gets must be the same."""
    from mlctl_kfp.executor import Call

    values = {
        "lr": (1e-7, "0.0000001"),
        "whole": (3.0, "3"),
        "yes": (True, "true"),
        "many": ([1, 2.5], "[1,2.5]"),
        "note": ("ü", "ü"),
    }
    given = {"pipeline_job_id": "run-1", "pipeline_task_name": "train", "key": f"a-{channel('whole')}"}
    given |= {"params": {name: [channel(name)] for name in values}}
    given |= {f"pipelinechannel--{name}": value for name, (value, _) in values.items()}
    outputs = {"outputFile": str(tmp_path / "answer.json")}
    call = Call.of(json.dumps({"inputs": {"parameterValues": given}, "outputs": outputs}))
    assert call.mapping("params") == {name: [text] for name, (_, text) in values.items()}
    assert call.text("key") == "a-3"


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


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("model", "executor input: has no output 'model'; load what"),
        ("metrics", "executor input: has no output 'metrics'"),
        ("parameterValues", "expected what KFP puts for '{{$}}'"),
    ],
)
def test_component_of_another_version(steps: Steps, home: Path, cut: str, says: str) -> None:
    """What the launcher needs to tell KFP of the job's end is looked at before the job starts."""
    place = {"uri": str(steps.root / "x")}
    told = {
        "inputs": {"parameterValues": {**JOB, "pipeline_job_id": "run-1", "pipeline_task_name": "train"}},
        "outputs": {"outputFile": "x", "artifacts": {name: {"artifacts": [place]} for name in ("model", "metrics")}},
    }
    if cut == "parameterValues":
        told["inputs"][cut] = [1]  # type: ignore[assignment]
    else:
        del told["outputs"]["artifacts"][cut]  # type: ignore[attr-defined]
    words = [BIN / "mlctl", "kfp", "step", "--kind", "train", json.dumps(told)]
    said = subprocess.run(words, cwd=steps.folder, capture_output=True, text=True, check=False)
    assert said.returncode == 2 and says in said.stderr and len(said.stderr.splitlines()) == 1
    assert not (home / "runs").exists()


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


@pytest.mark.parametrize("form", ["folder", "archive", "damaged", "zip", "gone"])
def test_project_as_an_artifact(steps: Steps, traces: Path, tmp_path: Path, form: str) -> None:
    project, elsewhere = steps.folder, tmp_path / "elsewhere"
    elsewhere.mkdir()
    steps.folder = elsewhere
    path = str(project)
    if form != "folder":
        path = shutil.make_archive(str(tmp_path / "project"), "gztar", project)
    if form == "damaged":
        os.truncate(path, 100)
    if form == "zip":
        path = shutil.make_archive(str(tmp_path / "project"), "zip", project)
    if form == "gone":
        path = "https://example.com/project.tar.gz"
    given = {**JOB, "project": dsl.Artifact(name="project", uri=path)}
    ended = steps.run(given)
    if form in ("damaged", "zip", "gone"):
        says = f"project: {path}: KFP fetched nothing" if form == "gone" else "expected a folder or a .tar.gz of one: "
        assert ended.code == 2 and says in ended.errors and len(ended.errors.splitlines()) == 1
        assert len(ended.errors) < 300, "and not each way in which it can't be read"
        return
    assert ended.code == 0, ended.errors
    assert steps.run(given).code == 0
    assert len(starts(traces)) == 1, "the second try found the run of the first"


def test_project_that_two_steps_unpack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see that it isn't there, and one is faster: the other takes what that left."""
    from mlctl_kfp import files

    (tmp_path / "project").mkdir()
    (tmp_path / "project/job.yaml").touch()
    archive = Path(shutil.make_archive(str(tmp_path / "project"), "gztar", tmp_path / "project"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rename = Path.rename

    def late(draft: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        files.unpacked(archive)
        return draft.rename(target)

    monkeypatch.setattr(Path, "rename", late)
    found = files.unpacked(archive)
    assert [path.name for path in found.iterdir()] == ["job.yaml"] and list(found.parent.iterdir()) == [found]


def test_uris_of_a_cluster() -> None:
    """The paths at which KFP's launcher puts artifacts, and what a job gets of them."""
    from mlctl_kfp.executor import Given

    uris = ("gs://b/m", "s3://b/m", "minio://b/m", "oci://r/m:1", "/local/m")
    paths = ["/gcs/b/m", "/s3/b/m", "/minio/b/m", "/oci/r_m:1/models", "/local/m"]
    assert [str(Given("m", uri, {}).path) for uri in uris] == paths
    workspace = Given("m", "s3://b/m", {"_kfp_workspace": True}).path
    assert str(workspace) == "/kfp-workspace/.artifacts/s3/b/m", "as an importer with download_to_workspace leaves it"
    assert Given("m", "s3://b/m", {}).address(here=False) == "s3://b/m"
    assert Given("m", "s3://b/m", {}).address(here=True) == "/s3/b/m"
    assert Given("m", "minio://b/m", {"mlctl_address": "s3://own/m"}).address(here=True) == "s3://own/m"
