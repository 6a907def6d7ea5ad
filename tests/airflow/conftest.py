"""A real Airflow, once a session, for the tests that need a scheduler; `dag.test()` in a home of its own for the others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from airflow_server import ROOT, Airflow, processes_of, until


def pytest_sessionfinish() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Airflow]:
    made = Airflow(ROOT / "server", ROOT / "mlctl")
    try:
        made.start("standalone")
        until(made.healthy, 120.0, 0.5)
        until(lambda: len(made.ask("GET", "/api/v2/dags")["dags"]) >= 6, 60.0, 0.5)
        yield made
    finally:
        for process in list(made.processes):
            made.stop(process)
        for pid in processes_of(made.mlctl):  # of a test that failed before it ended its run
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
