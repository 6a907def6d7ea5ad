"""The contract of all platforms, on accounts of yours; not there unless a variable names one: see account.py."""

from __future__ import annotations

from pathlib import Path

import account
import pytest

from mlctl.testing import BackendContract, Harness

if account.GIVEN:

    @pytest.mark.timeout(7200)
    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # an SDK may leave its connections to the collector
    class TestAccount(BackendContract):
        @pytest.fixture(params=account.GIVEN)
        def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
            return account.harness(request.param, tmp_path / "home")
