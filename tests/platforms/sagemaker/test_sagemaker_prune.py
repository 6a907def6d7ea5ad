"""What `mlctl gc` removes from a bucket, and what it never does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.s3.models import s3_backends
from sagemaker_harness import ACCOUNT, BUCKET, REGION, execution, target
from sagemaker_standin import StandIn

from mlctl.backends.sagemaker import SageMaker
from mlctl.errors import MlctlError, Unauthorized
from mlctl.runs import Run

MONTHS = timedelta(days=100)


@pytest.fixture
def prefix() -> Iterator[str]:
    made = f"gc-{time.time_ns()}"
    yield made
    for key in held(made):
        boto3.client("s3", region_name=REGION).delete_object(Bucket=BUCKET, Key=f"{made}/{key}")


def held(prefix: str) -> set[str]:
    pages = (
        boto3.client("s3", region_name=REGION).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    )
    return {each["Key"].removeprefix(f"{prefix}/") for page in pages for each in page.get("Contents", [])}


def aged(prefix: str, age: timedelta = MONTHS) -> None:
    """All that is there was written that long ago."""
    for name, key in s3_backends[ACCOUNT]["aws"].buckets[BUCKET].keys.items():
        if name.startswith(prefix):
            key.last_modified = datetime.now(timezone.utc).replace(tzinfo=None) - age


def started(backend: SageMaker, folder: Path, key: str, kind: str = "train") -> Run:
    (folder / key).mkdir()
    (folder / key / "main.py").write_text(f"print({key!r})\n")
    (folder / f"{key}.csv").write_text(key)
    fields: dict[str, Any] = {"kind": kind, "code": str(folder / key), "inputs": {"data": str(folder / f"{key}.csv")}}
    return execution(backend, key, outputs={"model": {}}, **fields).start().run


def left(prefix: str, run: Run) -> None:
    """What a job leaves: a checkpoint, metrics, a model."""
    stem, _, number = run.name.rpartition("-")
    for key in (f"state/job/step-{number}", f"state/metrics-{number}.jsonl", f"{number}/outputs/model.tar.gz"):
        boto3.client("s3", region_name=REGION).put_object(Bucket=BUCKET, Key=f"{prefix}/runs/{stem}/{key}", Body=b"x")


def over(idle: StandIn, run: Run, age: timedelta) -> None:
    job = idle.job(run.name)
    job.end("Completed")
    job.created = job.started = job.ended = datetime.now(timezone.utc) - age


def test_only_what_is_old_and_used_by_no_job_goes(idle: StandIn, home: Path, tmp_path: Path, prefix: str) -> None:
    backend = target(home, prefix=prefix)
    seen: dict[str, set[str]] = {}
    runs = {}
    for key, kind in (
        ("ended", "train"),
        ("processed", "process"),
        ("live", "process"),
        ("stopping", "train"),
        ("recent", "train"),
    ):
        before = held(prefix)
        runs[key] = started(backend, tmp_path, key, kind)
        left(prefix, runs[key])
        seen[key] = held(prefix) - before
    over(idle, runs["ended"], MONTHS)
    over(idle, runs["processed"], MONTHS)
    over(idle, runs["recent"], timedelta(days=1))
    idle.job(runs["stopping"].name).status = "Stopping"
    aged(prefix)
    everything = held(prefix)
    dry = list(backend.prune(time.time(), True))
    assert held(prefix) == everything
    assert list(backend.prune(time.time(), False)) == dry
    gone = everything - held(prefix)
    results = {key for key in everything if "/metrics-" in key or "/outputs/" in key}
    assert gone == (seen["ended"] | seen["processed"]) - results
    assert sum(f"s3://{BUCKET}/{prefix}/packages/" in line for line in dry) == 2
    assert list(backend.prune(time.time(), False)) == []


def test_young_uploads_stay_whatever_is_asked(idle: StandIn, home: Path, tmp_path: Path, prefix: str) -> None:
    backend = target(home, prefix=prefix)
    over(idle, started(backend, tmp_path, "one"), MONTHS)
    aged(prefix, timedelta(days=30))
    assert list(backend.prune(time.time(), True)) == []
    aged(prefix, timedelta(days=37))
    assert len(list(backend.prune(time.time(), True))) == 3


def test_submit_makes_what_it_uses_young_again(idle: StandIn, home: Path, tmp_path: Path, prefix: str) -> None:
    backend = target(home, prefix=prefix)
    over(idle, started(backend, tmp_path, "one"), MONTHS)
    aged(prefix)
    execution(backend, "again", code=str(tmp_path / "one"), inputs={"data": str(tmp_path / "one.csv")}).plan()
    assert len(list(backend.prune(time.time(), True))) == 3  # a plan uploads nothing
    run = (
        execution(backend, "again", code=str(tmp_path / "one"), inputs={"data": str(tmp_path / "one.csv")}).start().run
    )
    del idle.jobs[next(key for key in idle.jobs if key[3] == run.name)]  # as if it were not submitted yet
    assert [line for line in backend.prune(time.time(), False) if "/packages/" in line or "/inputs/" in line] == []


def test_nothing_goes_where_jobs_cannot_be_seen(idle: StandIn, home: Path, tmp_path: Path, prefix: str) -> None:
    backend = target(home, prefix=prefix)
    over(idle, started(backend, tmp_path, "one"), MONTHS)
    aged(prefix)
    everything = held(prefix)
    with idle.fault("forbidden", "sagemaker List"), pytest.raises(Unauthorized):
        list(backend.prune(time.time(), False))
    idle.job(next(key[3] for key in idle.jobs)).status = "InProgress"
    with idle.fault("throttled", "sagemaker Describe"), pytest.raises(MlctlError):
        list(backend.prune(time.time(), False))
    assert held(prefix) == everything
