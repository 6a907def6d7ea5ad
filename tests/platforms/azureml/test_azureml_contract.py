"""Azure ML passes the contract of all platforms: Azure's real clients over TLS to the stand-in, which runs the jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from azureml_harness import AzureMLHarness
from azureml_standin import StandIn

from mlctl.testing import BackendContract


class TestAzureML(BackendContract):
    @pytest.fixture
    def harness(self, standin: StandIn, tmp_path: Path) -> AzureMLHarness:
        return AzureMLHarness(standin, tmp_path / "home")
