"""MLCTL_TEST_SAGEMAKER and its like: the way to an account, tried on the stand-ins' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import account
import pytest

import standins

SOME = "success or second_submit or outputs_and_metrics or cancel_ends or secret or field"


def contract(env: Mapping[str, str], only: str = SOME) -> subprocess.CompletedProcess[str]:
    """`make test-platforms` of the account's tests, with that environment and no variable but those."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLCTL_", "AWS_", "AZURE", "DATABRICKS_"))
    }
    words = [sys.executable, "-m", "pytest", str(Path(__file__).with_name("test_account.py")), "-k", only]
    return subprocess.run(
        words, cwd=standins.ROOT, env={**clean, **env}, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", standins.MANAGED)
def test_a_target_is_put_to_the_contract(name: str, tmp_path: Path) -> None:
    config = tmp_path / "mlctl.yaml"
    with standins.running(name, tmp_path / name) as standin:
        config.write_text(json.dumps({"targets": {name: standin.target}}))
        done = contract({**standin.env, account.variable(name): str(config)})
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
    others = [each for each in standins.MANAGED if each != name]
    assert [line for line in done.stdout.splitlines() if line.startswith("not run")] == [
        f"not run on an account of {each}: {account.variable(each)} names no configuration, see docs/{each}.md"
        for each in others
    ]


@pytest.mark.parametrize("name", standins.MANAGED)
def test_a_wrong_configuration_is_no_pass(name: str, tmp_path: Path) -> None:
    config = tmp_path / "mlctl.yaml"
    config.write_text("targets: {prod: {backend: local}}")
    done = contract({account.variable(name): str(config)}, "test_success")
    assert done.returncode == 1, done.stdout[-4000:]
    assert f"target '{name}' is not in the configuration" in done.stdout


def test_without_a_variable_nothing_is_passed() -> None:
    done = contract({})
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("not run")] == [
        f"not run on an account of {name}" for name in standins.MANAGED
    ]
