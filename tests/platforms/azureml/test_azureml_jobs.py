"""What truly runs: the example's metrics, several nodes, secrets, checkpoints; and what the maker's own SDK reads of a job."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from azureml_harness import STORE, settings
from azureml_standin import GROUP, SUBSCRIPTION, WORKSPACE, Job, StandIn
from running import PATIENCE, ended, log, until

from example_jobs import points, run_all
from mlctl import jobfile, lifecycle
from mlctl.backend import Backend, Settings
from mlctl.backends.azureml import AzureML
from mlctl.runs import Key, Reason, Run, State, Status


def started(made: AzureML, key: str, folder: Path, **fields: Any) -> Run:
    job = jobfile.load({"kind": "train", "name": "aml", **fields})
    return lifecycle.Execution(job, made, made.settings, Key(f"{folder}{key}", "aml")).start().run


@pytest.fixture
def made(standin: StandIn, tmp_path: Path) -> AzureML:
    return AzureML(Settings("prod", settings(standin), tmp_path / "home"))


@pytest.mark.slow
def test_metrics_are_those_of_this_machine(made: AzureML, here: Backend) -> None:
    local, there = run_all(here), run_all(made)
    assert local["train"].metrics
    assert points(local) == points(there)


def test_each_node_knows_which_it_is(made: AzureML, tmp_path: Path) -> None:
    script = (
        'echo "rank $RANK of $WORLD_SIZE"; echo "{\\"name\\": \\"rank\\", \\"value\\": $RANK}" > "$MLCTL_METRICS_FILE"'
    )
    run = started(
        made, "nodes", tmp_path, command={"shell": script}, resources={"nodes": 2}, distribution={"type": "env"}
    )
    status, lines = ended(made, run), log(made, run)
    assert status.state is State.SUCCEEDED
    assert sorted(lines) == ["[std_log_process_0] rank 0 of 2", "[std_log_process_1] rank 1 of 2"]
    assert made.result(run).metrics == {"rank": 0.0}


def test_next_attempt_finds_the_checkpoint(made: AzureML, tmp_path: Path) -> None:
    script = 'cd "$MLCTL_CHECKPOINT_DIR"; if [ -f seen ]; then cat seen; else echo of the first >seen; exit 3; fi'
    job = jobfile.load({"kind": "train", "name": "aml", "command": {"shell": script}})
    key = Key(f"{tmp_path}checkpoint", "aml")
    first = lifecycle.Execution(job, made, made.settings, key).start().run
    assert ended(made, first).exit_code == 3
    second = lifecycle.Execution(job, made, made.settings, key, again=True).start().run
    ended(made, second)
    assert (second.attempt, log(made, second)) == (1, ["of the first"])


def test_local_input_is_uploaded_once_and_read(made: AzureML, standin: StandIn, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b.txt").write_text("hello\n")
    (tmp_path / "one file.csv").write_text("1\n")
    fields: dict[str, Any] = {
        "command": {"shell": 'cat "$MLCTL_INPUT_DATA/deep/a b.txt"; cat "$MLCTL_INPUT_FILE"'},
        "inputs": {"data": str(folder), "file": str(tmp_path / "one file.csv")},
    }
    for key in ("a", "b"):
        run = started(made, key, tmp_path, **fields)
        ended(made, run)
        assert log(made, run) == ["hello", "1"]
    assert len([path for path in standin.blobs.writes if "inputs/" in path and path.endswith("a b.txt")]) == 1


def test_secret_that_is_not_there_ends_the_job_with_a_word(standin: StandIn, tmp_path: Path) -> None:
    values = {**settings(standin), "secrets": {"TOKEN": "azure-kv:acme-ml/nothing"}}
    made = AzureML(Settings("prod", values, tmp_path / "home"))
    run = started(made, "secret", tmp_path, command="true", secrets=["TOKEN"])
    status = ended(made, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 1)
    assert "mlctl: secret TOKEN: nothing of" in log(made, run)[-1]


def test_code_and_its_exit_code(made: AzureML, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "job.py").write_text("import sys; print('from', sys.argv[1]); sys.exit(42)\n")
    run = started(made, "code", tmp_path, code=str(tmp_path / "code"), command="python job.py there")
    status, lines = ended(made, run), log(made, run)
    assert (status.exit_code, lines) == (42, ["from there"])


def test_job_that_is_stopped_may_say_goodbye(made: AzureML, tmp_path: Path) -> None:
    script = "trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    run = started(made, "goodbye", tmp_path, command={"shell": script})
    until(lambda: "up" in log(made, run))
    made.cancel(run)
    status, lines = ended(made, run), log(made, run)
    assert (status.state, lines[0], lines[-1]) == (State.CANCELLED, "up", "goodbye")


def test_the_makers_own_sdk_reads_what_we_sent(
    made: AzureML, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-ai-ml lists and shows the job, as its user would."""
    run = started(made, "sdk", tmp_path, command="echo done", outputs={"model": {}}, timeout="1h")
    ended(made, run)
    monkeypatch.setenv("AZUREML_DEV_URL_MFE", standin.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential

        client = MLClient(
            DefaultAzureCredential(), SUBSCRIPTION, GROUP, WORKSPACE, base_url=standin.url, enable_telemetry=False
        )
        job = client.jobs._get_job(run.name)
    assert job.name == run.name
    assert job.properties.status == "Completed"
    assert job.properties.outputs["model"].uri.startswith(STORE)
    assert job.properties.limits.timeout.total_seconds() == 3600
    assert job.properties.environment_variables["MLCTL_NONCE"]


def test_gc_archives_what_ended_long_ago(made: AzureML, standin: StandIn, tmp_path: Path) -> None:
    """Not what goes on, not another's job; an archived run is found, told and adopted as before."""
    done = started(made, "archived", tmp_path, command="true")
    ended(made, done)
    going = started(made, "going", tmp_path, command="sleep 600")
    foreign = standin.jobs[done.name].properties
    standin.jobs["foreign"] = Job("foreign", {**foreign, "properties": {}}, len(standin.jobs), "Completed")
    line = f"job {done.name}, archived"
    assert line not in list(made.prune(time.time() - 3600, False))
    assert line in list(made.prune(time.time() + 60, True)) and "isArchived" not in standin.jobs[done.name].properties
    before = {name: value for name, value in standin.jobs[done.name].properties.items() if name != "isArchived"}
    pruned = list(made.prune(time.time() + 60, False))
    assert line in pruned and not [each for each in pruned if going.name in each or "foreign" in each]
    assert standin.jobs[done.name].properties == {**before, "isArchived": True}
    assert line not in list(made.prune(time.time() + 60, True))
    assert {run: status.state for run, status in made.status([done, going]).items() if isinstance(status, Status)} == {
        done: State.SUCCEEDED,
        going: State.RUNNING,
    }
    assert started(made, "archived", tmp_path, command="true") == done
    lifecycle.cancel(made, going, PATIENCE)
    del standin.jobs["foreign"]
