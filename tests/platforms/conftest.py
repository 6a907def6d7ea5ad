"""This machine beside the platforms; and what was not run on anybody's account is said, never passed over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import account
import pytest

import standins
from mlctl import backend
from mlctl.backend import Backend, Settings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """This machine as a platform, where uv builds what the examples require."""
    monkeypatch.setenv("PATH", f"{standins.ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    return backend.load("local", Settings("laptop", {}, tmp_path / "local"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    accounts = Path(__file__).with_name("test_account.py")
    asked = any(accounts.is_relative_to(Path(argument.partition("::")[0]).absolute()) for argument in config.args)
    for name in account.missing() if asked else ():
        terminalreporter.write_line(
            f"not run on an account of {name}: {account.variable(name)} names no configuration, see docs/{name}.md"
        )
