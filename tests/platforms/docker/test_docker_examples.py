"""The job files of examples/01-local in containers: the metrics of this machine, here and there, whatever the parameter."""

from __future__ import annotations

import pytest
from docker_harness import DockerHarness

from example_jobs import points, run_all
from mlctl.backend import Backend

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_are_those_of_this_machine(
    harness: DockerHarness, here: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.values["network"] = "host"
    there, rows = harness.make(), []
    for params in ({}, {"epochs": 3, "alpha": 0.01}):
        local, far = (run_all(made, params) for made in (here, there))
        assert points(local) == points(far)
        rows.append((local["train"].metrics["accuracy"], params))
    assert rows[0][0] != rows[1][0]
    with capsys.disabled():
        print("\nexamples/01-local, accuracy, on this machine as on Docker:")
        for accuracy, params in rows:
            print(f"  {accuracy:.6f}  {params or 'as written'}")
