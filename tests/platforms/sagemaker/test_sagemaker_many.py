"""What asking for many runs costs."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from pathlib import Path

from sagemaker_harness import ACCOUNT, REGION, execution, target
from sagemaker_standin import Job as NativeJob
from sagemaker_standin import StandIn

from mlctl.backends.sagemaker import SageMaker
from mlctl.runs import Run, State


def filled(standin: StandIn, backend: SageMaker, count: int) -> list[Run]:
    """Runs that go on, as many copies of one."""
    first = execution(backend).start().run
    request = standin.job(first.name).request
    now = datetime.now(timezone.utc)
    standin.jobs.clear()
    runs = [dataclasses.replace(first, name=f"many-{number:05}-0") for number in range(count)]
    for number, run in enumerate(runs):
        copied = {**request, "TrainingJobName": run.name}
        key = (ACCOUNT, REGION, "Training", run.name)
        standin.jobs[key] = NativeJob("Training", ACCOUNT, REGION, copied, now - timedelta(seconds=number))
    standin.calls.clear()
    return runs


def test_calls_grow_with_pages(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = filled(idle, backend, 1000)
    answer = backend.status(runs)
    assert [getattr(one, "state", one) for one in answer.values()] == [State.STARTING] * 1000
    assert dict(idle.calls) == {"ListTrainingJobs": 10}
    for run in runs[:3]:
        idle.job(run.name).end("Stopped")
    idle.calls.clear()
    answer = backend.status(runs)
    assert [getattr(answer[run], "state", answer[run]) for run in runs[:4]] == [State.CANCELLED] * 3 + [State.STARTING]
    assert dict(idle.calls) == {"ListTrainingJobs": 10, "DescribeTrainingJob": 3}


def test_few_runs_among_many_cost_no_more_than_a_page_each(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = filled(idle, backend, 1000)
    backend.status(runs[-2:])
    assert dict(idle.calls) == {"ListTrainingJobs": 2, "DescribeTrainingJob": 2}
