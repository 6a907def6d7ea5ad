"""Flows in processes of their own, plain and under a runner: killed, executed again, cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect_harness import HERE, Jobs, end, until

FLOWS = HERE / "prefect_flows.py"


class Prefect:
    """The server, asked past the integration, and processes that execute its flow runs."""

    def __init__(self, client: SyncPrefectClient, env: dict[str, str], folder: Path) -> None:
        self.client, self.env, self.folder = client, env, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def ask(self, method: Any, path: str, **body: Any) -> Any:
        answer = self.client.request(method, path, **({"json": body} if method == "POST" else {}))
        return answer.json()

    def flow_run(self, **parameters: Any) -> str:
        """A new flow run of `nightly`, for a plain process to execute."""
        flow_id = self.ask("POST", "/flows/", name="nightly")["id"]
        return str(self.ask("POST", "/flow_runs/", flow_id=flow_id, parameters=parameters)["id"])

    def state(self, flow_run: str) -> str:
        return str(self.ask("GET", f"/flow_runs/{flow_run}")["state"]["type"])

    def set(self, flow_run: str, state: str) -> None:
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", state={"type": state}, force=True)

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"process-{len(self.processes)}.log").open("wb")
        with log:
            made = subprocess.Popen(
                [sys.executable, *command], env={**self.env, **env}, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(made)
        return made

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"process-{self.processes.index(process)}.log").read_text()

    def execute(self, flow_run: str, stage: str = "") -> subprocess.Popen[bytes]:
        """A plain process that executes the flow run."""
        env = {"PREFECT__FLOW_ENTRYPOINT": f"{FLOWS}:nightly", "STAGE": stage}
        return self.start("-m", "prefect.engine", flow_run, **env)

    def again(self, flow_run: str) -> subprocess.Popen[bytes]:
        """What the UI's retry does, and whoever then executes it."""
        self.set(flow_run, "SCHEDULED")
        return self.execute(flow_run)


@pytest.fixture
def prefect(client: SyncPrefectClient, server: dict[str, str], jobs: Jobs, home: Path) -> Iterator[Prefect]:
    env = {**server, "MLCTL_HOME": str(home), "TRACE": str(jobs.trace), "JOB": str(jobs.write(gated=True))}
    made = Prefect(client, env, jobs.folder)
    yield made
    for process in made.processes:
        end(process)


@pytest.mark.parametrize("stage", ["before submit", "after submit", "running", "after success"])
def test_adopt_after_crash(prefect: Prefect, jobs: Jobs, stage: str) -> None:
    """kill -9 of the flow's process; executed again, the flow run has one job, started once, and its result."""
    run = prefect.flow_run()
    first = prefect.execute(run, "" if stage == "running" else stage)
    if stage == "running":
        until(lambda: jobs.said("started"), what="the job")
        first.send_signal(signal.SIGKILL)
    elif stage == "after success":
        jobs.open()
    assert first.wait(60) == -signal.SIGKILL, prefect.log(first)
    second = prefect.again(run)
    if stage == "running":
        until(lambda: "Found local://" in prefect.log(second), what="the adoption")
    jobs.open()
    assert second.wait(60) == 0, prefect.log(second)
    assert prefect.state(run) == "COMPLETED"
    assert jobs.said("started") == jobs.attempts() == 1
    assert "hello from the job" in prefect.log(second)


def test_cancel_racing_submit(prefect: Prefect, jobs: Jobs) -> None:
    """A signal while the platform takes the run: the run is ended once it is there."""
    run = prefect.flow_run()
    process = prefect.execute(run, "slow submit")
    until(lambda: jobs.said("submitting"), what="the submit")
    process.send_signal(signal.SIGTERM)
    until(lambda: jobs.said("stopping"), what="the cancel")
    (jobs.folder / "submit-gate").touch()
    process.wait(60)
    assert jobs.attempts() == 1 and "is cancelled" in prefect.log(process)
    assert jobs.said("started") == jobs.said("stopped")  # where it came so far


def test_late_cancel_of_old_owner(prefect: Prefect, jobs: Jobs) -> None:
    """A process that was thought dead wakes up and ends the job: the new owner starts the next attempt, once."""
    run = prefect.flow_run()
    old = prefect.execute(run)
    until(lambda: jobs.said("started"), what="the job")
    old.send_signal(signal.SIGSTOP)
    new = prefect.again(run)
    until(lambda: "Found local://" in prefect.log(new), what="the adoption")
    old.send_signal(signal.SIGTERM)
    old.send_signal(signal.SIGCONT)
    until(lambda: jobs.said("started") == 2, what="the next attempt")
    jobs.open()
    assert new.wait(60) == 0, prefect.log(new)
    assert jobs.attempts() == 2 and jobs.said("stopped") == 1


@pytest.mark.parametrize("how", ["call", "map"])
def test_cancel_in_a_plain_process(prefect: Prefect, jobs: Jobs, how: str) -> None:
    """Prefect tells a plain process nothing; the tasks ask the server, end their jobs, and the process ends.

    The flow run stays CANCELLING: Prefect leaves the last step to a runner, and there is none.
    """
    run = prefect.flow_run(how=how)
    process = prefect.execute(run)
    count = 2 if how == "map" else 1
    until(lambda: jobs.said("started") == count, what="the jobs")
    prefect.set(run, "CANCELLING")
    process.wait(60)
    assert jobs.said("stopped") == count and jobs.attempts() == count
    assert process.returncode == 1 and prefect.state(run) == "CANCELLING"


@pytest.fixture
def runner(prefect: Prefect) -> Callable[..., str]:
    """A function that has a runner execute a flow run of a deployment."""
    prefect.start(str(FLOWS))

    def run(flow: str, **parameters: Any) -> str:
        return str(prefect.ask("POST", f"/deployments/{ids[flow]}/create_flow_run", parameters=parameters)["id"])

    ids = {}
    for flow in ("nightly", "nightly-async", "fragile"):
        ids[flow] = until(lambda flow=flow: find(prefect, flow), what=f"the deployment of {flow}")
    return run


def find(prefect: Prefect, flow: str) -> Any:
    wanted = {"deployments": {"name": {"any_": ["tested"]}}, "flows": {"name": {"any_": [flow]}}}
    found = prefect.ask("POST", "/deployments/filter", **wanted)
    return found and found[0]["id"]


def test_cancel(prefect: Prefect, jobs: Jobs, runner: Callable[..., str]) -> None:
    """Cancelled where a runner executes it, a flow run ends its jobs: called, awaited, mapped over threads."""
    started = 0
    for flow, parameters, count in (("nightly", {}, 1), ("nightly-async", {}, 1), ("nightly", {"how": "map"}, 2)):
        run = runner(flow, **parameters)
        started += count
        until(lambda now=started: jobs.said("started") == now, what="the jobs")
        prefect.set(run, "CANCELLING")
        until(lambda run=run: prefect.state(run) == "CANCELLED", what=f"the end of {flow} {parameters}")
        assert jobs.said("stopped") == started
    assert jobs.attempts() == started == 4


def test_crash_hook(prefect: Prefect, jobs: Jobs, runner: Callable[..., str]) -> None:
    """A flow that was killed under a runner has its jobs ended by stop_jobs; without the hook they go on."""
    run = runner("fragile")
    until(lambda: jobs.said("started"), what="the job")
    os.kill(process_of(run), signal.SIGKILL)
    until(lambda: jobs.said("stopped"), what="the hook")
    until(lambda: prefect.state(run) == "CRASHED", what="the crash")
    assert jobs.attempts() == 1


def process_of(flow_run: str) -> int:
    """The process that executes a flow run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT__FLOW_RUN_ID={flow_run}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    pytest.fail(f"no process executes {flow_run}")
