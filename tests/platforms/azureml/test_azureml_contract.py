"""Azure ML passes the contract of all platforms: Azure's real clients over TLS to the stand-in, which runs the jobs.

With MLCTL_TEST_AZUREML, the settings of a target as JSON, the same contract runs on that workspace as well: see docs/azureml.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from azureml_harness import AzureMLHarness, OwnHarness, settings
from azureml_standin import StandIn

from mlctl.runs import Run
from mlctl.testing import BackendContract, Native


class TestAzureML(BackendContract):
    @pytest.fixture
    def harness(self, standin: StandIn, tmp_path: Path) -> AzureMLHarness:
        return AzureMLHarness(standin, tmp_path / "home")


if os.environ.get("MLCTL_TEST_AZUREML"):

    @pytest.mark.timeout(7200)
    class TestOwnWorkspace(BackendContract):
        @pytest.fixture
        def harness(self, tmp_path: Path) -> OwnHarness:
            return OwnHarness(json.loads(os.environ["MLCTL_TEST_AZUREML"]), tmp_path / "home")


def test_own_workspace_is_asked_by_the_makers_sdk(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the contract would ask of a real workspace, asked of the stand-in."""
    from mlctl import jobfile, lifecycle, watch
    from mlctl.runs import Key

    monkeypatch.setenv("AZUREML_DEV_URL_MFE", standin.url)
    harness = OwnHarness(settings(standin), tmp_path)
    made = harness.make()
    job = jobfile.load({"kind": "process", "name": "own", "command": "true"})
    run = lifecycle.Execution(job, made, made.settings, Key(str(tmp_path), "own")).start().run  # type: ignore[attr-defined]
    assert watch.until_done(made, run, 120)
    assert harness.native(run) == Native(1, alive=False)
    assert harness.native(Run(run.backend, run.account, run.scope, "nobody")) == Native(0, alive=False)
