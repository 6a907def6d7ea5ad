"""What jobs find, leave and say, on the stand-in that runs them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp_platform_harness import KFPHarness
from kfp_standin import StandIn
from running import ended, log, until

from mlctl import jobfile, lifecycle
from mlctl.backend import Backend
from mlctl.errors import RunFailed
from mlctl.runs import Key, Reason, Run, State, Status

_keys = itertools.count()


@pytest.fixture
def backend(standin: StandIn, home: Path) -> Backend:
    return KFPHarness(standin, home).make()


@pytest.fixture
def claim(standin: StandIn) -> Path:
    """What is on the volume `data`."""
    made: Path = standin._run.claim("team-data")  # type: ignore[union-attr]
    return made


@pytest.fixture
def start(backend: Backend) -> Callable[..., Run]:
    """Starts a job whose command is a shell's script."""

    def started(script: str, key: str = "", **fields: Any) -> Run:
        job = jobfile.load({"kind": "process", "name": "runs", "command": ["/bin/sh", "-c", script], **fields})
        made = Key(key or f"{time.time_ns()}-{next(_keys)}", "runs")
        return lifecycle.Execution(job, backend, backend.settings, made, again=bool(key)).start().run  # type: ignore[attr-defined]

    return started


def test_code_and_inputs_of_this_machine_arrive(backend: Backend, start: Any, tmp_path: Path) -> None:
    code, data = tmp_path / "code", tmp_path / "data"
    (code / "deep").mkdir(parents=True)
    (code / "deep/job.py").write_text(
        "import os, sys; print(sorted(os.listdir(sys.argv[1])), open(sys.argv[2]).read())"
    )
    data.mkdir()
    (data / "b.bin").write_bytes(bytes(range(256)))
    (data / "a file's.csv").write_text("1\n")
    run = start(
        "true", code=str(code), command="python deep/job.py ${{inputs.data}} ${{inputs.one}}",
        inputs={"data": str(data), "one": str(data / "a file's.csv")},
    )  # fmt: skip
    assert ended(backend, run).state is State.SUCCEEDED
    assert log(backend, run) == ["""["a file's.csv", 'b.bin'] 1""", ""]


def test_inputs_of_a_volume_are_mounted_or_copied(backend: Backend, start: Any, claim: Path) -> None:
    (claim / "in").mkdir(exist_ok=True)
    (claim / "in/x.txt").write_text("here\n")
    inputs = {"there": "volume://data/in", "copy": {"uri": "volume://data/in/x.txt", "mode": "download"}}
    script = 'cat "$MLCTL_INPUT_THERE/x.txt"; echo changed >>"$MLCTL_INPUT_COPY"; cat "$MLCTL_INPUT_COPY"'
    run = start(script, inputs=inputs)
    assert ended(backend, run).state is State.SUCCEEDED
    assert log(backend, run) == ["here", "here", "changed"]
    assert (claim / "in/x.txt").read_text() == "here\n"


def test_input_that_is_not_there_fails_the_run(backend: Backend, start: Any) -> None:
    run = start("true", inputs={"data": {"uri": "volume://data/nowhere", "mode": "download"}})
    status = ended(backend, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
    assert "the input /mnt/data/nowhere could not be copied" in status.message


def test_outputs_are_in_place_or_copied_or_where_the_job_says(backend: Backend, start: Any, claim: Path) -> None:
    outputs = {"a": {"mode": "mount"}, "b": {"mode": "upload"}, "c": {"uri": "volume://data/models", "mode": "upload"}}
    run = start(
        'for each in "$MLCTL_OUTPUT_A" "$MLCTL_OUTPUT_B" "$MLCTL_OUTPUT_C"; do echo $each >$each/f; done',
        outputs=outputs,
    )
    assert ended(backend, run).state is State.SUCCEEDED
    found = backend.result(run).outputs
    stem = run.name.rpartition("-")[0]
    assert found == {
        "a": f"volume://data/mlctl/runs/{stem}/0/outputs/a", "b": f"volume://data/mlctl/runs/{stem}/0/outputs/b",
        "c": f"volume://data/models/{run.name}/c",
    }  # fmt: skip
    places = {
        name: (claim / uri.removeprefix("volume://data/") / "f").read_text().strip() for name, uri in found.items()
    }
    assert places["a"] == f"/mnt/data/mlctl/runs/{stem}/0/outputs/a"
    assert places["b"] == "/tmp/mlctl/outputs/b"
    assert places["c"] == "/tmp/mlctl/outputs/c"


def test_outputs_of_a_job_that_failed_are_not_copied(backend: Backend, start: Any, claim: Path) -> None:
    run = start('echo x >"$MLCTL_OUTPUT_M/f"; exit 2', outputs={"m": {"mode": "upload"}})
    assert ended(backend, run).exit_code == 2
    assert not (claim / backend.result(run).outputs["m"].removeprefix("volume://data/") / "f").exists()


def test_output_that_can_not_be_saved_is_no_success(backend: Backend, start: Any) -> None:
    script = 'at=${MLCTL_OUTPUT_KEPT%/*}/unsaved; rm -r "$at"; : >"$at"'
    run = start(script, outputs={"unsaved": {"mode": "upload"}, "kept": {"mode": "mount"}})
    status = ended(backend, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
    assert "an output could not be saved: unsaved" in status.message


def test_checkpoints_are_there_for_the_next_attempt(backend: Backend, start: Any) -> None:
    script = 'cat "$MLCTL_CHECKPOINT_DIR/at" 2>/dev/null || { echo 3 >"$MLCTL_CHECKPOINT_DIR/at"; exit 1; }'
    key = f"checkpoints-{time.time_ns()}"
    first = start(script, key)
    assert ended(backend, first).state is State.FAILED
    second = start(script, key)
    assert second.attempt == 1
    assert ended(backend, second).state is State.SUCCEEDED
    assert log(backend, second) == ["3"]


def test_pod_that_is_started_again_does_not_run_the_job_again(
    backend: Backend, standin: StandIn, start: Any, claim: Path
) -> None:
    """As *Retry* of KFP's page does."""
    run = start('echo ran >>"$MLCTL_OUTPUT_M/f"; exit 3', outputs={"m": {}})
    assert ended(backend, run).exit_code == 3
    (made,) = standin.named(run.name)
    made.run_id, before = made.run_id + "-again", made.run_id
    standin._run(standin, made)  # type: ignore[misc]
    made.run_id = before
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert (status.reason, status.message) == (Reason.INFRA, "mlctl: this attempt was started before, in another pod")
    assert (claim / backend.result(run).outputs["m"].removeprefix("volume://data/") / "f").read_text() == "ran\n"


def test_variables_that_the_script_has_too_are_the_jobs(backend: Backend, start: Any) -> None:
    names = {"code": "a", "job": "b", "told": "c", "again": "d", "watch": "e", "last": "f", "python": "g", "nonce": "h"}
    run = start("echo $code$job$told$again$watch$last$python$nonce", env=names)
    assert ended(backend, run).state is State.SUCCEEDED
    assert log(backend, run) == ["abcdefgh"]


def test_job_that_ignores_sigterm_is_killed_after_its_timeout(backend: Backend, start: Any) -> None:
    run = start('trap "" TERM; echo up; while :; do sleep 0.1; done', timeout="3s")
    status = ended(backend, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.TIMEOUT, 137)


def test_job_that_ends_well_when_it_is_told_to_is_no_failure(backend: Backend, start: Any) -> None:
    run = start('trap "echo saved; exit 0" TERM; while :; do sleep 0.1; done', timeout="3s", outputs={"m": {}})
    assert ended(backend, run).state is State.SUCCEEDED
    assert log(backend, run) == ["saved"]


def test_cancel_passes_sigterm_on(backend: Backend, start: Any) -> None:
    run = start('trap "echo told; exit 0" TERM; echo up; while :; do sleep 0.1; done')
    until(lambda: "up" in log(backend, run))
    backend.cancel(run)
    assert ended(backend, run).state is State.CANCELLED
    assert log(backend, run) == ["up", "told"]


def test_secret_that_is_not_there_fails_the_run(backend: Backend, standin: StandIn, start: Any) -> None:
    kept = standin.secrets.pop(("acme-ml", "token"))
    try:
        status = ended(backend, start("true", secrets=["TOKEN"]))
    finally:
        standin.secrets["acme-ml", "token"] = kept
    assert status.state is State.FAILED
    assert 'secret "acme-ml" not found' in status.message


def test_metrics_are_hidden_in_the_log_and_no_line_of_the_jobs_is(backend: Backend, start: Any) -> None:
    line = json.dumps({"name": "loss", "value": 1.5})
    run = start(
        f"printf '%s' '{line}' >\"$MLCTL_METRICS_FILE\"; echo mlctl.file is a name; echo mlctl.end too; printf last"
    )
    assert ended(backend, run).state is State.SUCCEEDED
    assert log(backend, run) == ["mlctl.file is a name", "mlctl.end too", "last"]
    assert backend.result(run).metrics == {"loss": 1.5}


def test_failure_is_told_in_one_line(backend: Backend, start: Any) -> None:
    run = start("exit 9")
    assert str(RunFailed(run, ended(backend, run))) == f"{run.name}: failed (error): exit code 9"
