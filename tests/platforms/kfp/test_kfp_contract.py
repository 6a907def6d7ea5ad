"""KFP passes the contract of all platforms: its own client over HTTP to the stand-in, which runs the pipelines' task."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp_platform_harness import KFPHarness
from kfp_standin import StandIn

from mlctl.testing import BackendContract


class TestKFP(BackendContract):
    @pytest.fixture
    def harness(self, standin: StandIn, tmp_path: Path) -> KFPHarness:
        return KFPHarness(standin, tmp_path / "home")
