"""`airflow standalone` on SQLite, and what the tests ask of it over its REST API.

The variables are set here, before anything imports airflow: it reads them at its import.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ports
import pytest

from behaviour import PATIENCE, PLUGIN, SECRET, TOKEN, Call, until

HERE = Path(__file__).parent
AIRFLOW = tuple(map(int, version("apache-airflow-core").split(".")[:2]))
"""The version under test, (3, 1) or later: some of what Airflow itself does differs."""
ROOT = Path(tempfile.mkdtemp(prefix="mlctl-airflow-"))  # of this session: removed at its end
DAGS = ROOT / "dags"
STARTING = 240.0  # seconds for the server to be there: 30 on a quiet machine
EVERY = 0.2  # seconds between two looks at the server, which answers from the same two cores


SESSION = contextlib.ExitStack()  # closed at its end
PORT, WORKER_LOGS, TRIGGER_LOGS = SESSION.enter_context(ports.kept(3))
SETTINGS = {
    "AIRFLOW_HOME": str(ROOT / "here"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),  # of `dag.test()`; the server has its own
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{PORT}/execution/",
    "AIRFLOW__API__PORT": str(PORT),
    "AIRFLOW__API__HOST": "127.0.0.1",
    "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{PORT}",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-the-tests-" * 4,
    # What tests wait for: whether a task is still wanted is asked every second; who is silent for a while is dead.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # else an edit soon after the server's start is not kept
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # a file that changed is read at once all the same
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(WORKER_LOGS),  # else another Airflow of this machine has it
    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(TRIGGER_LOGS),
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "SPT_NOENV": "1",  # a process that names itself keeps its environment readable, by which it is known here
}
os.environ.update(SETTINGS)


def processes(*words: str) -> list[int]:
    """The processes of this session's Airflow that have these words in their command line; without words, its jobs', too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            environ = (entry / "environ").read_bytes()
            job = b"MLCTL_RUN=local" in environ  # whose parameters may hold any word
            if str(ROOT).encode() in environ and all(word in line and not job for word in words):
                found.append(int(entry.name))
    return found


def kill(*words: str) -> int:
    """`kill -9` to them; how many there were."""
    found = processes(*words)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def parent(pid: int) -> int:
    """A process's parent: of a task's process, its supervisor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def number_triggers_once(database: Path) -> None:
    """SQLite gives the highest number anew once its row is gone, which the databases of production don't: a triggerer that had no
    look in between takes the new trigger of a task that was cleared for the old one, and goes on with that."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'trigger'").fetchone()
        indexes = connection.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'trigger' AND type = 'index'"
        ).fetchall()
        numbered = made.replace("id INTEGER NOT NULL", "id INTEGER PRIMARY KEY AUTOINCREMENT")
        numbered = re.sub(r"\s*CONSTRAINT \w+ PRIMARY KEY \(id\),?", "", numbered)
        assert numbered.count("PRIMARY KEY") == 1, made
        connection.execute("DROP TABLE trigger")
        for (sql,) in [(numbered,), *indexes]:
            connection.execute(sql)


class Airflow:
    """The server. `home` is its own, `mlctl` is MLCTL_HOME of its tasks."""

    def __init__(self, home: Path, mlctl: Path) -> None:
        self.home, self.mlctl, self.token = home, mlctl, ""
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLCTL_")},
            **SETTINGS,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "MLCTL_HOME": str(mlctl),
            TOKEN: SECRET,
            "PYTHONPATH": str(PLUGIN),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def serve(self) -> None:
        """Starts all of it; returns once it is healthy."""
        shutil.copytree(HERE / "dags" / "served", DAGS)  # a copy, for a test edits a DAG
        if code := self.start("db", "migrate").wait(STARTING):
            pytest.fail(f"airflow db migrate: {code}\n{(self.home / 'db.log').read_text()[-3000:]}")
        number_triggers_once(self.home / "airflow.db")
        self.start("standalone")
        try:
            until(self.healthy, "Airflow to be healthy", STARTING, 0.5)
        except pytest.fail.Exception as error:
            alive = f"processes alive: {len(processes())}"
            pytest.fail(f"{error}; {alive}\n{(self.home / 'standalone.log').read_text()[-3000:]}")

    def start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        """One `airflow` command, in a process group of its own."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", command, *options],
                env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def restart_triggerer(self, sign: int) -> None:
        """Ends it with that signal, and starts another."""
        pids = processes("airflow", "triggerer")
        assert pids
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended with the one before
                if sign == signal.SIGKILL or parent(pid) not in pids:
                    os.kill(pid, sign)
        until(lambda: not set(pids) & set(processes("airflow", "triggerer")), "the triggerer to end", PATIENCE, EVERY)
        self.start("triggerer")

    def stop(self) -> None:
        """Ends every process of it and of its jobs, for certain."""
        for process in self.processes:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
        kill()  # tasks have groups of their own

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the REST API, read."""
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(request, data, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def healthy(self) -> bool:
        """Whether all its parts are there. Gets a token on the way."""
        try:
            health = self.ask("GET", "/api/v2/monitor/health")
            if not self.token:
                self.token = self.ask("GET", "/auth/token")["access_token"]
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "triggerer", "dag_processor"))

    def parsed(self, dag: str) -> str:
        """When that DAG was last read; empty before that."""
        with contextlib.suppress(urllib.error.HTTPError):
            return str(self.ask("GET", f"/api/v2/dags/{dag}")["last_parsed_time"])
        return ""

    def trigger(self, dag: str, call: Call) -> DagRun:
        """A new run of a DAG, which makes that call."""
        until(lambda: self.parsed(dag), f"the DAG {dag}", PATIENCE, EVERY)
        conf = {"job": str(call.job), "parameters": dict(call.params), "target": call.target}
        if call.then:
            conf["then"] = str(call.then.job)
        made = self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        return DagRun(self, dag, made["dag_run_id"])


class DagRun:
    """One run of a DAG whose first task is called `one`; all that is asked is asked of a task."""

    def __init__(self, airflow: Airflow, dag: str, run_id: str) -> None:
        self.airflow, self.dag, self.run_id = airflow, dag, run_id
        self.path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id, safe='')}"

    def task(self, task: str = "one") -> Any:
        """What Airflow says of the task."""
        return self.airflow.ask("GET", f"{self.path}/taskInstances/{task}")

    def until(self, *states: str, tries: int = 1) -> Any:
        """The task, once it is in one of `states`, in that try or a later one."""
        seen: list[Any] = []

        def reached() -> bool:
            seen[:] = [self.task()]
            return seen[0]["state"] in states and seen[0]["try_number"] >= tries

        try:
            until(reached, f"{self.dag} to be {' or '.join(states)}", PATIENCE, EVERY)
        except pytest.fail.Exception as error:
            pytest.fail(f"{error}; it is {seen and seen[0]['state']}\n{self.log()}")
        return seen[0]

    def process(self) -> int:
        """The process that executes the task now."""
        return int(self.until("running")["pid"] or 0) or until(lambda: self.task()["pid"], "the task's process")

    def watched(self) -> None:
        """Returns once a triggerer has the deferred task's trigger: before, nobody hears what a user does to the task."""
        self.until("deferred")
        until(lambda: re.search("trigger .* starting", self.log()), "the trigger to be loaded", PATIENCE, EVERY)

    def finished(self) -> str:
        """The DAG run's own state, once the scheduler has closed it.

        A clear between the task's end and this moment can be lost by Airflow: the run is closed over it, and the cleared
        task is never queued.
        """

        def state() -> str:
            found = str(self.airflow.ask("GET", self.path)["state"])
            return found if found in ("success", "failed") else ""

        try:
            return str(until(state, f"the end of {self.dag}", PATIENCE, EVERY))
        except pytest.fail.Exception as error:
            pytest.fail(f"{error}; its task is {self.task()['state']}\n{self.log()}")

    def mark(self, state: str) -> None:
        """What a user does to the task."""
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/one", {"new_state": state})

    def mark_run(self, state: str) -> None:
        """What a user does to the DAG run."""
        self.airflow.ask("PATCH", self.path, {"state": state})

    def clear(self) -> None:
        """What a user does who wants all of it again."""
        body = {"dry_run": False, "dag_run_id": self.run_id, "only_failed": False, "reset_dag_runs": True}
        self.airflow.ask("POST", f"/api/v2/dags/{self.dag}/clearTaskInstances", body)

    def xcom(self, key: str = "return_value", task: str = "one") -> Any:
        """What the task left."""
        return self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/xcomEntries/{key}?deserialize=true")["value"]

    def link(self) -> str | None:
        """Where the button Platform on the task's page leads."""
        return self.airflow.ask("GET", f"{self.path}/taskInstances/one/links")["extra_links"].get("Platform")

    def log(self, task: str = "one") -> str:
        """The text of the task's log, every try's."""
        return "\n".join(self._log(task, number) for number in range(1, self.task(task)["try_number"] + 1))

    def _log(self, task: str, number: int) -> str:
        with contextlib.suppress(urllib.error.HTTPError):
            answer = self.airflow.ask("GET", f"{self.path}/taskInstances/{task}/logs/{number}?full_content=true")
            return "\n".join(json.dumps(one, ensure_ascii=False) for one in answer["content"])
        return ""
