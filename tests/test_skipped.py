"""The table of what was skipped: what a run of tests leaves for it, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import skipped

CONFTEST = """
import pathlib, skipped
skipped.ROOT = pathlib.Path(__file__).parents[1]
skipped.FOUND = skipped.ROOT / "build/skipped"
def pytest_configure(config):
    config.pluginmanager.register(skipped.Recorder(config))
"""
SKIPS = """
import pytest
@pytest.fixture
def engine(): pytest.skip("no engine")
@pytest.mark.skipif(True, reason="not on this system")
def test_marked(): pass
@pytest.mark.parametrize("number", [1, 2])
def test_engine(engine, number): pass
def test_given_up(): pytest.skip("given up: no such thing here")
@pytest.mark.xfail
def test_expected(): assert False
def test_passes(): pass
"""
WHOLE = 'import pytest\npytest.skip("nothing of this file", allow_module_level=True)\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests/mine").mkdir(parents=True)
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "tests/conftest.py").write_text(CONFTEST)
    (tmp_path / "tests/mine/test_some.py").write_text(SKIPS)
    (tmp_path / "tests/mine/test_whole.py").write_text(WHOLE)
    return tmp_path


def run(project: Path, *words: str) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    env = {"PYTHONPATH": str(skipped.ROOT / "tests"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=project, env=env, stdout=subprocess.DEVNULL, timeout=120, check=False).returncode


def table(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(skipped, "FOUND", project / "build/skipped")
    monkeypatch.delenv("CI", raising=False)
    assert skipped.main() == 0
    return capsys.readouterr().out.splitlines()


def test_reasons_are_counted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a suite and reason; neither a promise that is given up, nor a failure that is expected, is one."""
    assert run(project, "tests/mine") == 0
    assert table(project, monkeypatch, capsys) == [
        "suite  tests  skipped, because",
        "mine       2  no engine",
        "mine       1  nothing of this file",
        "mine       1  not on this system",
    ]
    monkeypatch.setenv("CI", "true")
    assert skipped.main() == 1


def test_the_next_run_begins_anew(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, "tests/mine")
    (project / "tests/mine/test_whole.py").unlink()
    (project / "tests/mine/test_some.py").write_text("def test_passes(): pass\n")
    assert run(project, "tests/mine") == 0
    assert json.loads((project / "build/skipped/mine.json").read_text()) == []
    assert table(project, monkeypatch, capsys) == ["skipped: nothing"]


def test_a_run_that_is_killed_leaves_nothing_of_the_one_before(project: Path) -> None:
    run(project, "tests/mine")
    (project / "tests/mine/test_some.py").write_text(
        "import os, signal\ndef test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run(project, "tests/mine") == -9
    assert not list((project / "build/skipped").iterdir())


def test_suites_are_told_apart(project: Path) -> None:
    """By what pytest was asked to run: nothing is the core."""
    run(project, "tests/mine/test_some.py")
    run(project, "tests/mine", "--ignore", "tests/mine/test_whole.py")
    run(project)
    assert {path.stem for path in (project / "build/skipped").iterdir()} == {"mine-test_some", "mine", "core"}
