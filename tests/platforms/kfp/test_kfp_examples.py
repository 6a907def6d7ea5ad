"""The job files of examples/01-local on KFP: the metrics of this machine, here and there, whatever the parameter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_jobs import Runner
from kfp_platform_harness import KFPHarness
from kfp_standin import StandIn

from example_jobs import points, run_all
from mlctl.backend import Backend


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
    harness: KFPHarness, here: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    there, rows = harness.make(), []
    for params in ({}, {"epochs": 3, "alpha": 0.01}):
        local, far = (run_all(made, params) for made in (here, there))
        assert points(local) == points(far)
        rows.append((local["train"].metrics["accuracy"], params))
    assert rows[0][0] != rows[1][0]
    with capsys.disabled():
        print("\nexamples/01-local, accuracy, on this machine as on KFP:")
        for accuracy, params in rows:
            print(f"  {accuracy:.6f}  {params or 'as written'}")
