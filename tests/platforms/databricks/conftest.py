"""One workspace for all tests of Databricks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks_harness import DatabricksHarness, furnish
from databricks_standin import TOKEN, Standin

from mlctl.backend import Backend


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    made = Standin(tmp_path_factory.mktemp("databricks"))
    try:
        furnish(made)
        yield made
    finally:
        made.close()


@pytest.fixture
def harness(standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatabricksHarness:
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    return DatabricksHarness(standin, tmp_path / "home")


@pytest.fixture
def made(harness: DatabricksHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.chdir(tmp_path)
    return harness.make()
