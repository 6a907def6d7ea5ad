"""The contract, on this platform."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("mlctl.testing")

from mlctl.backend import Settings
from mlctl.runs import Run
from mlctl.testing import BackendContract, Harness, Native

from my_project import Platform
from my_project.service import Service


class MyHarness(Harness):
    """Makes the backend, and looks at the service without it. With faults = {"throttled", ...} it would break it, too."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def make(self) -> Platform:
        return Platform(Settings("here", {}, self.home))

    def native(self, run: Run) -> Native:
        names = Service.at(self.home / Platform.name).names()
        alive = run.name in names and Service.at(self.home / Platform.name).describe(run.name).exit_code is None
        return Native(names.count(run.name), alive)


class TestMyPlatform(BackendContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> MyHarness:
        return MyHarness(tmp_path / "home")
