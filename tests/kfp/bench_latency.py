"""A pipeline of one task in kfp.local's Docker runner: from its call to its process, and from its process's end to its return.

The container is part of both: it takes most of either time.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl

import latency
import mlctl_kfp

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


@dsl.container_component
def plain(script: str, notes: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="mlctl-kfp:latest", command=["/bin/sh", "-c"], args=[script, notes])


@dsl.pipeline
def own(script: str, notes: str) -> None:
    plain(script=script, notes=notes)


@dsl.pipeline
def ours(job: str) -> None:
    mlctl_kfp.step("process", job=job)


def test_latency(docker_runner: Callable[..., None], jobs: Path, traces: Path) -> None:
    docker_runner()
    for subject, notes in latency.turns(["a container step", "mlctl's component"], traces):
        path = latency.job(jobs / "jobs", notes)
        began = time.time()
        if subject == "mlctl's component":
            ours(job=f"jobs/{path.name}")
        else:
            own(script=latency.SCRIPT, notes=str(notes))
        latency.tell(subject, notes, began, time.time())
