"""The job files of examples/01-local on KFP: the metrics of this machine, here and there, whatever the parameter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_jobs import Runner
from kfp_platform_harness import KFPHarness
from kfp_standin import StandIn

from example_jobs import JOBS, run_all
from mlctl import backend
from mlctl.backend import Settings


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[KFPHarness]:
    """A server whose pods have a Python with pip, and nothing else: what a job requires is installed when it starts."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    made = StandIn(Runner(tmp_path / "kfp", tmp_path / "python"))
    yield KFPHarness(made, tmp_path / "home")
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_are_those_of_this_machine(
    harness: KFPHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{JOBS.parents[2] / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
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
        print("\nexamples/01-local, accuracy:\n  local     kfp       training's parameters")
        for params, local, kfp in rows:
            print(f"  {local:.6f}  {kfp:.6f}  {params or 'as written'}")
