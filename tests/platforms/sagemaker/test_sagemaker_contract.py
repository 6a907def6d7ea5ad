"""SageMaker passes the contract of all platforms: real boto3 over HTTP to the stand-in, which runs the jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from sagemaker_harness import SageMakerHarness
from sagemaker_standin import StandIn

from mlctl.testing import BackendContract


class TestSageMaker(BackendContract):
    @pytest.fixture
    def harness(self, standin: StandIn, tmp_path: Path) -> SageMakerHarness:
        return SageMakerHarness(standin, tmp_path / "home")
