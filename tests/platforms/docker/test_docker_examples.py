"""The job files of examples/01-local in containers: the metrics of this machine, here and there, whatever the parameter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docker_harness import DockerHarness

from example_jobs import JOBS, run_all
from mlctl import backend
from mlctl.backend import Settings

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_are_those_of_this_machine(
    harness: DockerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{JOBS.parents[2] / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    harness.values["network"] = "host"
    here, there = backend.load("local", Settings("laptop", {}, tmp_path / "local")), harness.make()
    rows = []
    for params in ({}, {"epochs": 3, "alpha": 0.01}):
        results = {made.name: run_all(made, params) for made in (here, there)}
        points = [
            {kind: [(each.name, each.value, each.step) for each in result.points] for kind, result in ran.items()}
            for ran in results.values()
        ]
        assert points[0] == points[1]
        rows.append((params, *(ran["train"].metrics["accuracy"] for ran in results.values())))
    assert rows[0][1] != rows[1][1]
    with capsys.disabled():
        print("\nexamples/01-local, accuracy:\n  local     docker    training's parameters")
        for params, local, docker in rows:
            print(f"  {local:.6f}  {docker:.6f}  {params or 'as written'}")
