"""`airflow standalone` on SQLite, and what the tests ask of it over its REST API.

The variables are set here, before anything imports airflow: it reads them at its import.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from behaviour import PLUGIN, SECRET, TOKEN

HERE = Path(__file__).parent
ROOT = Path(tempfile.mkdtemp(prefix="mlctl-airflow-"))  # of this session: removed at its end


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = _free_port()
SETTINGS = {
    "AIRFLOW_HOME": str(ROOT / "here"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{PORT}/execution/",
    "AIRFLOW__API__PORT": str(PORT),
    "AIRFLOW__API__HOST": "127.0.0.1",
    "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{PORT}",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-the-tests-" * 4,
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "RETRIES": str(ROOT / "retries"),
}
os.environ.update(SETTINGS)


def until(what: Callable[[], Any], seconds: float = 60.0, every: float = 0.1) -> Any:
    """What `what` answers, once that is true. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what.__name__}")
        time.sleep(every)
    return answer


def processes_of(home: Path) -> list[int]:
    """The processes of the runs below an MLCTL_HOME."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if f"{home}/runs/".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def kill(word: str) -> int:
    """`kill -9` to this session's Airflow processes of that name; how many there were."""
    found = processes(word)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def processes(word: str) -> list[int]:
    """This session's Airflow processes of that name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            mine = str(Path(os.environ["AIRFLOW_HOME"]).parent).encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if mine and word in line and "airflow" in line:
            found.append(int(entry.name))
    return found


class Airflow:
    """The server, and what the tests ask of it."""

    def __init__(self, home: Path, mlctl: Path) -> None:
        self.home, self.mlctl, self.token = home, mlctl, ""
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLCTL_")},
            **SETTINGS,
            "AIRFLOW_HOME": str(home),
            "HF_TOKEN": "hf-very-secret-token",
            "MLCTL_HOME": str(mlctl),
            TOKEN: SECRET,
            "PYTHONPATH": str(PLUGIN),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """One `airflow` command, in a process group of its own."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = (self.home / f"{command[0]}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", *command],
            env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], sign: int = signal.SIGTERM) -> None:
        """Ends a process and its group, for certain."""
        for one in (sign, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, one)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.processes.remove(process)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the REST API, read."""
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(request, data, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def healthy(self) -> bool:
        try:
            health = self.ask("GET", "/api/v2/monitor/health")
            if not self.token:
                self.token = self.ask("GET", "/auth/token")["access_token"]
        except (OSError, urllib.error.HTTPError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "triggerer", "dag_processor"))

    # What a test does

    def trigger(self, dag: str, job: Path, **conf: Any) -> DagRun:
        """A new run of a DAG, with that configuration."""
        made = self.ask(
            "POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": {"job": str(job), **conf}}
        )
        return DagRun(self, dag, made["dag_run_id"])


class DagRun:
    """One run of a DAG with one task."""

    def __init__(self, airflow: Airflow, dag: str, run_id: str) -> None:
        from urllib.parse import quote

        self.airflow, self.dag, self.run_id = airflow, dag, run_id
        self.path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id, safe='')}"

    def task(self, task: str = "one") -> Any:
        return self.airflow.ask("GET", f"{self.path}/taskInstances/{task}")

    def state(self, task: str = "one") -> str:
        return self.task(task)["state"]

    def until(self, *states: str, task: str = "one", seconds: float = 60.0) -> str:
        """The task's state, once it is one of `states`."""
        seen = []

        def reached() -> str | None:
            seen.append(self.state(task))
            return seen[-1] if seen[-1] in states else None

        try:
            return until(reached, seconds)
        except pytest.fail.Exception:
            pytest.fail(f"{self.dag}: {task} is {seen[-1]}, expected {states}\n{self.log()}")

    def finished(self) -> str:
        """The DAG run's own state, once the scheduler has closed it.

        A clear between the task's end and this moment can be lost by Airflow: the run is closed over it, and the cleared
        task is never queued.
        """
        return until(
            lambda: state if (state := self.airflow.ask("GET", self.path)["state"]) in ("success", "failed") else ""
        )

    def mark(self, state: str, task: str = "one") -> None:
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/{task}", {"new_state": state})

    def mark_run(self, state: str) -> None:
        self.airflow.ask("PATCH", self.path, {"state": state})

    def clear(self, task: str = "one") -> None:
        body = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [task],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.airflow.ask("POST", f"/api/v2/dags/{self.dag}/clearTaskInstances", body)

    def xcom(self, key: str = "return_value", task: str = "one") -> Any:
        return self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/xcomEntries/{key}?deserialize=true")["value"]

    def log(self, task: str = "one", tries: int | None = None) -> str:
        """The text of the log of a try, the last one unless told."""
        number = tries or self.task(task)["try_number"]
        with contextlib.suppress(urllib.error.HTTPError):
            answer = self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/logs/{number}?full_content=true")
            return "\n".join(json.dumps(one) if isinstance(one, dict) else str(one) for one in answer["content"])
        return ""
