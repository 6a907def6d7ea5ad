"""A task of a flow on a real Prefect server: from its call to its process, and from its process's end to its result."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect_harness import Jobs

import latency
from mlctl_prefect import mlctl_task

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


@task
def plain(words: list[str]) -> None:
    subprocess.run(words, check=True)


@flow
def one(work: Any, *given: Any) -> tuple[float, float]:
    began = time.time()
    work(*given)
    return began, time.time()


def test_latency(jobs: Jobs, tmp_path: Path) -> None:
    for subject, notes in latency.turns(["a task with subprocess.run", "mlctl_task"], tmp_path):
        ours = subject == "mlctl_task"
        call = (mlctl_task(latency.job(jobs.folder, notes)),) if ours else (plain, latency.command(notes))
        latency.tell(subject, notes, *one(*call))
