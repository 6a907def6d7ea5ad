"""Jobs that run on the stand-in, and what comes back of them."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from running import PATIENCE, log
from sagemaker_harness import BUCKET, REGION, SETTINGS
from sagemaker_standin import StandIn

from mlctl import jobfile, lifecycle, watch
from mlctl.backend import Settings
from mlctl.backends.sagemaker import SageMaker
from mlctl.runs import Key, Reason, Run, State, Status


class Bench:
    """A target, and jobs on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(exist_ok=True)

    def backend(self, **settings: Any) -> SageMaker:
        return SageMaker(Settings("prod", {**SETTINGS, **settings}, self.home))

    def execution(self, key: str, fields: dict[str, Any], **options: Any) -> lifecycle.Execution:
        backend = self.backend()
        job = jobfile.load({"kind": "train", "name": "sm", "command": "true", **fields})
        return lifecycle.Execution(job, backend, backend.settings, Key(f"{self.home}{key}", "sm"), **options)

    def start(self, fields: dict[str, Any], key: str = "one", **options: Any) -> tuple[SageMaker, Run]:
        execution = self.execution(key, fields, **options)
        return execution.backend, execution.start().run  # type: ignore[return-value]

    def done(self, fields: dict[str, Any], key: str = "one", **options: Any) -> tuple[SageMaker, Run, Status]:
        backend, run = self.start(fields, key, **options)
        status = watch.until_done(backend, run, PATIENCE, interval=0.2)
        assert status is not None
        return backend, run, status


@pytest.fixture
def bench(standin: StandIn, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "home")


def shell(script: str) -> dict[str, Any]:
    return {"command": {"shell": script}}


def test_a_chain_of_three_kinds(bench: Bench, tmp_path: Path) -> None:
    """Code, a local input, a model in its archive, and the next job finds the folders it expects."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "job.sh").write_text('set -e\ncat "$1" | tr a-z A-Z >"$2/$3"\n')
    (tmp_path / "raw.txt").write_text("a line\n")
    process = {
        "kind": "process", "code": str(code), "command": "sh job.sh ${{inputs.raw}} ${{outputs.clean}} clean.txt",
        "inputs": {"raw": str(tmp_path / "raw.txt")}, "outputs": {"clean": {}},
    }  # fmt: skip
    backend, run, status = bench.done(process, "process")
    assert status.state is State.SUCCEEDED, log(backend, run)
    clean = backend.result(run).outputs["clean"]
    assert clean == f"s3://{BUCKET}/mlctl/runs/{run.name[:-2]}/0/outputs/clean"
    train = {
        "code": str(code), "inputs": {"clean": clean}, "outputs": {"model": {}, "report": {"type": "metrics"}},
        **shell('cp "$MLCTL_INPUT_CLEAN/clean.txt" "$MLCTL_OUTPUT_MODEL/m"; echo "$SM_MODEL_DIR" >"$MLCTL_OUTPUT_REPORT/r"'),
    }  # fmt: skip
    backend, run, status = bench.done(train, "train")
    assert status.state is State.SUCCEEDED, log(backend, run)
    outputs = backend.result(run).outputs
    assert [outputs[name].rpartition("/")[2] for name in outputs] == ["model.tar.gz", "output.tar.gz#report"]
    bucket, _, key = outputs["model"].removeprefix("s3://").partition("/")
    body = boto3.client("s3", region_name=REGION).get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert tar.getnames() == ["m"]
    predict = {
        "kind": "batch-inference", "inputs": dict(outputs),
        **shell('cat "$MLCTL_INPUT_MODEL/m" "$MLCTL_INPUT_REPORT/r"'),
    }  # fmt: skip
    backend, run, status = bench.done(predict, "predict")
    assert status.state is State.SUCCEEDED, log(backend, run)
    lines = log(backend, run)
    assert lines[0] == "A LINE"
    assert lines[1].endswith("/model")


@pytest.mark.parametrize("kind", ["train", "process"])
def test_next_attempt_finds_the_checkpoint(bench: Bench, kind: str) -> None:
    script = 'cat "$MLCTL_CHECKPOINT_DIR/step" || true; echo seven >"$MLCTL_CHECKPOINT_DIR/step"; exit 3'
    backend, run, status = bench.done({"kind": kind, **shell(script)})
    assert (status.reason, status.exit_code) == (Reason.ERROR, 3)
    backend, run, status = bench.done({"kind": kind, **shell(script)}, again=True)
    assert run.name.endswith("-1")
    assert "seven" in log(backend, run)


def test_params_of_any_size_and_hyperparameters(bench: Bench, standin: StandIn) -> None:
    params = {"lr": 0.1, "note": "two\nlines", "long": "x" * 300_000}
    backend, run, status = bench.done(
        {
            "image": "sklearn==1.4",
            "params": params,
            **shell('wc -c <"$MLCTL_PARAMS_FILE"; cat "$MLCTL_PARAMS_FILE" | head -c 12'),
        }
    )
    assert status.state is State.SUCCEEDED
    lines = log(backend, run)
    assert int(lines[0]) > 300_000
    assert lines[1].startswith('{"')
    assert standin.job(run.name).request["HyperParameters"] == {"lr": "0.1", "note": '"two\\nlines"'}


def test_two_nodes_know_each_other_and_their_logs_are_told_apart(bench: Bench) -> None:
    fields = {
        "resources": {"nodes": 2}, "distribution": {"type": "env"},
        **shell('echo "$RANK of $WORLD_SIZE by $MASTER_ADDR on $SM_CURRENT_HOST"'),
    }  # fmt: skip
    backend, run, status = bench.done(fields)
    assert status.state is State.SUCCEEDED, status
    assert sorted(log(backend, run)) == ["[algo-1] 0 of 2 by algo-1 on algo-1", "[algo-2] 1 of 2 by algo-1 on algo-2"]


def test_torchrun_gets_the_whole_command(bench: Bench, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "torchrun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (code / "torchrun").chmod(0o755)
    fields = {
        "code": str(code), "command": ["python", "train.py", "a b"], "env": {"PATH": ".:/usr/bin:/bin"},
        "distribution": {"type": "torchrun", "processes_per_node": 4},
    }  # fmt: skip
    backend, run, status = bench.done(fields)
    assert status.state is State.SUCCEEDED, log(backend, run)
    assert log(backend, run) == [
        "--nnodes=1", "--nproc-per-node=4", "--node-rank=0", "--master-addr=algo-1", "--master-port=29500",
        "--no-python", "python", "train.py", "a b",
    ]  # fmt: skip


def test_log_lines_of_one_moment_come_once(bench: Bench) -> None:
    backend, run, status = bench.done(shell("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done"))
    assert status.state is State.SUCCEEDED
    assert log(backend, run) == [f"line {number}" for number in range(300)]
    logs = boto3.client("logs", region_name=REGION)
    group, stream = "/aws/sagemaker/TrainingJobs", f"{run.name}/algo-1-9999999999"
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    cursor = ""
    at = int(time.time() * 1000)
    for batch in (["a", "b"], ["c"], ["d", "e"]):
        events = [{"timestamp": at, "message": text} for text in batch]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
        found = backend.logs(run, cursor)
        assert [line for line in found.lines if "line" not in line] == [f"[algo-1] {text}" for text in batch]
        cursor = found.cursor
    assert bench.backend().logs(run, cursor).lines == ()


def test_metrics_of_the_log_where_there_is_no_file(bench: Bench) -> None:
    line = "mlctl.metric " + json.dumps({"name": "loss", "value": 0.5, "step": 1})
    backend, run, _ = bench.done(shell(f"echo '{line}'; echo other"))
    assert backend.result(run).metrics == {"loss": 0.5}


@pytest.mark.parametrize("source", ["aws-sm:ml/token", "aws-ssm:/ml/token"])
def test_secret_is_read_by_the_job(bench: Bench, source: str) -> None:
    backend = bench.backend(secrets={"TOKEN": source})
    job = jobfile.load({"kind": "process", "name": "sm", "secrets": ["TOKEN"], **shell('printf %s "$TOKEN" | wc -c')})
    run = lifecycle.Execution(job, backend, backend.settings, Key(f"{bench.home}{source}", "sm")).start().run
    status = watch.until_done(backend, run, PATIENCE, interval=0.2)
    assert status is not None
    assert status.state is State.SUCCEEDED, status
    assert log(backend, run) == [str(len("s3cr3t-7f1e9c") + source.startswith("aws-ssm"))]  # its line break as well


def test_secret_that_is_not_there(bench: Bench) -> None:
    backend = bench.backend(secrets={"TOKEN": "aws-sm:ml/nothing"})
    job = jobfile.load({"kind": "process", "name": "sm", "command": "true", "secrets": ["TOKEN"]})
    run = lifecycle.Execution(job, backend, backend.settings, Key(str(bench.home), "sm")).start().run
    status = watch.until_done(backend, run, PATIENCE, interval=0.2)
    assert status is not None
    assert "mlctl: secret TOKEN: aws-sm:ml/nothing could not be read" in status.message


def test_requirements_that_are_not_there(bench: Bench) -> None:
    fields = {"requirements": ["--no-index", "mlctl-no-such-package==1.0"]}
    _, _, status = bench.done(fields)
    assert (status.state, status.reason) == (State.FAILED, Reason.IMAGE)


def test_an_input_that_is_empty_or_missing(bench: Bench, tmp_path: Path) -> None:
    from mlctl.errors import InvalidJob

    for uri in (f"s3://{BUCKET}/nothing/", f"s3://{BUCKET}/nothing.csv"):
        with pytest.raises(InvalidJob, match=r"inputs.data: s3://ml-jobs/nothing.*: nothing is there"):
            bench.start({"inputs": {"data": uri}})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidJob, match=r"is empty"):
        bench.start({"inputs": {"data": str(tmp_path / "empty")}})


def test_files_go_up_once_and_in_parts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin: StandIn
) -> None:
    from mlctl.backends.sagemaker import store

    monkeypatch.setattr(store, "_PART", 5 << 20)
    (tmp_path / "big.bin").write_bytes(bytes(range(256)) * 45_000)  # 11 MB: three parts
    script = shell('cksum <"$MLCTL_INPUT_DATA"')
    backend, run, status = bench.done({"inputs": {"data": str(tmp_path / "big.bin")}, **script})
    assert status.state is State.SUCCEEDED, log(backend, run)
    assert log(backend, run)[0].endswith(str(256 * 45_000))
    before = len(
        boto3.client("s3", region_name=REGION).list_objects_v2(Bucket=BUCKET, Prefix="mlctl/inputs/")["Contents"]
    )
    bench.start({"inputs": {"data": str(tmp_path / "big.bin")}, **script}, key="two")
    after = len(
        boto3.client("s3", region_name=REGION).list_objects_v2(Bucket=BUCKET, Prefix="mlctl/inputs/")["Contents"]
    )
    assert after == before
