"""A real Prefect server for the session, and what it shows of a flow run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ports
import pytest
from prefect_harness import FLOWS, Jobs, Prefect, end, until

from behaviour import PLUGIN, SECRET, TOKEN

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# These tests have an environment of their own. Elsewhere this very folder is what `prefect` names.
collect_ignore_glob = [] if find_spec("prefect.task_engine") else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "default")  # what Prefect and its libraries warn about is theirs to mend
    config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")  # its artifacts leave their client open


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    with ports.kept() as [made]:
        yield made


@pytest.fixture(scope="session")
def server(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process that talks to this session's own Prefect server."""
    at = tmp_path_factory.mktemp("prefect")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLCTL_"))} | {
        "PREFECT_HOME": str(at),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (at / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    url = f"http://127.0.0.1:{port}/api"

    def healthy() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {(at / 'server.log').read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return answer.status == 200
        return False

    try:
        until(healthy, 240, "the server")  # 15 on a quiet machine
        yield env | {"PREFECT_API_URL": url}
    finally:
        end(process)


@pytest.fixture(scope="session")
def runner(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of flows; and a runner that executes what the server has for it, each in a process of its own."""
    env = {**server, "PYTHONPATH": str(PLUGIN), TOKEN: SECRET, "MLCTL_HOME": "/nowhere"}
    with (tmp_path_factory.mktemp("runner") / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(FLOWS)], env=env, stdout=log, stderr=log, start_new_session=True
        )
    yield env
    end(process)


@pytest.fixture
def prefect(client: SyncPrefectClient, runner: dict[str, str], tmp_path: Path) -> Iterator[Prefect]:
    made = Prefect(client, runner, tmp_path)
    yield made
    for process in made.processes:
        end(process)


@pytest.fixture(autouse=True)
def api(server: dict[str, str]) -> Iterator[None]:
    """Flows of this process go to the session's server."""
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    settings = {PREFECT_API_URL: server["PREFECT_API_URL"], PREFECT_HOME: server["PREFECT_HOME"]}
    with temporary_settings(settings):
        yield
        APILogWorker.instance().drain()


@pytest.fixture
def client(api: None) -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def log_of(client: SyncPrefectClient) -> Callable[[Any], str]:
    """The log of a flow run, as the server has it."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.logging.handlers import APILogWorker

    def read(flow_run: Any) -> str:
        APILogWorker.instance().drain()
        found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run])), limit=200, offset=0)
        return "\n".join(one.message for one in found)

    return read


@pytest.fixture
def artifacts_of(client: SyncPrefectClient) -> Callable[[Any], dict[str, str]]:
    """Key -> data of a flow run's artifacts."""

    def read(flow_run: Any) -> dict[str, str]:
        wanted = {"artifacts": {"flow_run_id": {"any_": [str(flow_run)]}}}
        return {one["key"]: one["data"] for one in client.request("POST", "/artifacts/filter", json=wanted).json()}

    return read


@pytest.fixture
def jobs(project: Path, home: Path) -> Jobs:
    return Jobs(project, home)
