"""The server as it shows a flow run, the processes that execute it, and jobs that say where they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from behaviour import PATIENCE

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from behaviour import Call

HERE = Path(__file__).parent
FLOWS = HERE / "prefect_flows.py"
EVERY = 0.25  # seconds between two looks at the server, which answers from the same two cores

# A job that says where it is: a line in `trace` when it starts; it goes on once `gate` is there (or at once).
SCRIPT = """
echo started >> "$TRACE"
trap 'echo stopped >> "$TRACE"; exit 143' TERM
while [ -n "$GATE" ] && [ ! -e "$GATE" ]; do sleep 0.05; done
printf '{"name": "loss", "value": 0.25}\\n' >> "$MLCTL_METRICS_FILE"
echo "hello from the job"
echo trained > "$MLCTL_OUTPUT_MODEL/model.txt"
"""


def until(answers: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    """What `answers()` says once it is true. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := answers()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for {what or answers}")
        time.sleep(EVERY)
    return answer


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


class Jobs:
    """Job files of one test, and what their jobs did."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.trace, self.gate = folder / "trace", folder / "gate"
        self.trace.touch()

    def write(self, name: str = "train", script: str = SCRIPT, gated: bool = False, **fields: Any) -> Path:
        """A job file. With `gated`, its job goes on once `open` is called."""
        env = {"TRACE": str(self.trace), "GATE": str(self.gate) if gated else "", **fields.pop("env", {})}
        job = {
            "kind": "train",
            "name": name,
            "command": {"shell": script},
            "outputs": {"model": {}},
            "env": env,
            **fields,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def open(self) -> None:
        self.gate.touch()

    def said(self, word: str) -> int:
        """How often a job wrote `word`."""
        return self.trace.read_text().split().count(word)

    def attempts(self) -> int:
        """How many runs the platform has, looked at past mlctl."""
        return len(list((self.home / "runs").glob("*/[0-9]*")))


class Prefect:
    """The server, asked past the integration, and processes that execute its flow runs. `env` is theirs."""

    def __init__(self, client: SyncPrefectClient, env: dict[str, str], folder: Path) -> None:
        self.client, self.env, self.folder = client, env, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def ask(self, method: Any, path: str, **body: Any) -> Any:
        answer = self.client.request(method, path, **({"json": body} if method == "POST" else {}))
        return answer.json()

    def all(self, what: str, flow_run: str, **body: Any) -> list[dict[str, Any]]:
        """What the server has of that kind for the flow run, page by page."""
        found: list[dict[str, Any]] = []
        while page := self.ask("POST", f"/{what}/filter", **body, offset=len(found), limit=200):
            found += page
        return found

    def served(self, flow: str, **parameters: Any) -> str:
        """A new flow run of a deployment, for the runner to execute."""
        wanted = {"deployments": {"name": {"any_": ["tested"]}}, "flows": {"name": {"any_": [flow]}}}
        (found,) = until(lambda: self.ask("POST", "/deployments/filter", **wanted), what=f"the deployment of {flow}")
        return str(self.ask("POST", f"/deployments/{found['id']}/create_flow_run", parameters=parameters)["id"])

    def plain(self, flow: str, **parameters: Any) -> str:
        """A new flow run, for a plain process to execute."""
        flow_id = self.ask("POST", "/flows/", name=flow)["id"]
        return str(self.ask("POST", "/flow_runs/", flow_id=flow_id, parameters=parameters)["id"])

    def execute(self, flow_run: str, flow: str = "nightly") -> subprocess.Popen[bytes]:
        """A plain process that executes the flow run."""
        env = {**self.env, "PREFECT__FLOW_ENTRYPOINT": f"{FLOWS}:{flow}"}
        with (self.folder / f"process-{len(self.processes)}.log").open("wb") as log:
            command = [sys.executable, "-m", "prefect.engine", flow_run]
            made = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(made)
        return made

    def serve_task(self, file: Path, name: str, home: Path) -> None:
        """A worker that executes the file's task where it is delayed."""
        env = {**self.env, "MLCTL_HOME": str(home)}
        with (self.folder / "worker.log").open("wb") as log:
            command = [sys.executable, "-m", "prefect", "task", "serve", f"{file}:{name}"]
            self.processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))

    def state(self, flow_run: str) -> str:
        return str(self.ask("GET", f"/flow_runs/{flow_run}")["state"]["type"])

    def set(self, flow_run: str, state: str) -> None:
        """What the UI's *Cancel* and *Retry* do."""
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", state={"type": state}, force=True)

    def log(self, flow_run: str) -> str:
        asked = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(one["message"] for one in self.all("logs", flow_run, **asked))

    def tries(self, flow_run: str, call: Call) -> int:
        """How often the call's task ran, once the server has heard of its end."""

        def newest() -> Any:
            found = self.all("task_runs", flow_run, flow_runs={"id": {"any_": [flow_run]}})
            ours = [one for one in found if one["task_key"].startswith(f"mlctl-{call.job.stem}-")]
            return max(ours, key=lambda one: one["expected_start_time"], default=None)

        until(lambda: newest() and newest()["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), what="the task's end")
        return int(newest()["run_count"])

    def result(self, flow_run: str) -> Any:
        """What the flow returned, as it was persisted."""
        state = self.client.read_flow_run(flow_run).state  # type: ignore[arg-type]
        assert state
        return state.result(_sync=True)  # type: ignore[call-overload]

    def processes_of(self, flow_run: str) -> list[int]:
        """The processes that execute a flow run; its jobs, which have its environment too, aside."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "environ").read_bytes().split(b"\0")
                job = any(word.startswith(b"MLCTL_RUN=") for word in words)
                if not job and f"PREFECT__FLOW_RUN_ID={flow_run}".encode() in words:
                    found.append(int(entry.name))
        return sorted(found)

    def kill(self, flow_run: str) -> None:
        """kill -9 of what executes the flow run."""
        for process in until(lambda: self.processes_of(flow_run), what=f"the process of {flow_run}"):
            with contextlib.suppress(ProcessLookupError):  # it ended with the one before
                os.kill(process, signal.SIGKILL)
