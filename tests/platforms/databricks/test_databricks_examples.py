"""The job files of examples/01-local, truly executed: the same metrics here and there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from databricks_harness import DatabricksHarness

from mlctl import backend, jobfile, lifecycle
from mlctl.backend import Backend, Settings
from mlctl.runs import Key, Result, State

EXAMPLE = Path(__file__).parents[3] / "examples" / "01-local" / "jobs"
PATIENCE = 900.0


def run_all(made: Backend) -> dict[str, Result]:
    """Process, train, batch inference, each fed with what the one before it left."""
    done: dict[str, Result] = {}
    for kind, feeds in (
        ("process", {}),
        ("train", {"data": "process"}),
        ("batch-inference", {"data": "process", "model": "train"}),
    ):
        inputs = {name: done[source].outputs[name] for name, source in feeds.items()}
        job = jobfile.load(EXAMPLE / f"{kind}.yaml", inputs=inputs)
        execution = lifecycle.Execution(job, made, made.settings, Key(f"example-{made.name}", job.name))  # type: ignore[attr-defined]
        outcome = execution.wait(execution.start(), PATIENCE)
        log = [line for logs in lifecycle.lines(made, outcome.run) for line in logs.lines]
        assert outcome.status is not None
        assert outcome.status.state is State.SUCCEEDED, (outcome.status, log)
        done[kind] = made.result(outcome.run)
    return done


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_are_those_of_this_machine(
    harness: DatabricksHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{EXAMPLE.parents[2] / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    here = backend.load("local", Settings("laptop", {}, tmp_path / "local"))
    local, there = run_all(here), run_all(harness.make())
    assert local["train"].metrics
    for kind, result in local.items():
        assert there[kind].metrics == result.metrics
        steps = [[(point.name, point.value, point.step) for point in each.points] for each in (result, there[kind])]
        assert steps[0] == steps[1]
