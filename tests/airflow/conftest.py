"""A real Airflow, once a session, for the tests that need a scheduler; `dag.test()` in a home of its own for the others."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator

import pytest
from airflow_server import ROOT, SESSION, Airflow


def pytest_sessionfinish() -> None:
    SESSION.close()
    shutil.rmtree(ROOT, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the server said last, below a test of it that failed."""
    report = yield
    if report.failed and "server" in getattr(item, "fixturenames", ()):
        for log in (ROOT / "server").glob("*.log"):
            report.sections.append((f"the end of {log.name}", log.read_text(errors="replace")[-8000:]))
    return report


@pytest.fixture(scope="session")
def server() -> Iterator[Airflow]:
    made = Airflow(ROOT / "server", ROOT / "mlctl")
    try:
        made.serve()
        yield made
    finally:
        made.stop()


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user marked the deferred tasks failed, as a server says, which isn't there: with a real one it is in test_server.py."""
    monkeypatch.setattr("mlctl_airflow.identity.state_of", lambda ti: "failed")
