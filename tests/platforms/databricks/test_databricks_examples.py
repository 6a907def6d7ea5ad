"""The job files of examples/01-local, truly executed: the same metrics here and there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from databricks_harness import DatabricksHarness

from example_jobs import JOBS, run_all
from mlctl import backend
from mlctl.backend import Settings


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_are_those_of_this_machine(
    harness: DatabricksHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{JOBS.parents[2] / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    here = backend.load("local", Settings("laptop", {}, tmp_path / "local"))
    local, there = run_all(here), run_all(harness.make())
    assert local["train"].metrics
    for kind, result in local.items():
        assert there[kind].metrics == result.metrics
        steps = [[(point.name, point.value, point.step) for point in each.points] for each in (result, there[kind])]
        assert steps[0] == steps[1]
