"""The promises of the operators on a real Airflow: scheduler, triggerer and API server, over REST. `kill -9` included."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from airflow_server import HERE, Airflow, DagRun, kill, until

from mlctl import backend
from mlctl.runs import Run, State

BOTH = pytest.mark.parametrize("dag", ["here", "deferred"])


class Job:
    """A job file whose run writes a line at each start, and goes on once its gate is open."""

    def __init__(self, folder: Path, server: Airflow) -> None:
        self.folder, self.server = folder, server
        self.note, self.gate = folder / "note", folder / "gate"

    def file(self, open_gate: bool = True, **given: Any) -> Path:
        if open_gate:
            self.gate.touch()
        params = {
            "note": str(self.note),
            "gate": str(self.gate),
            "leave": "model",
            "say": "hello",
            **given.pop("params", {}),
        }
        made = {"kind": "train", "name": "test", "code": str(HERE / "code"), "command": "python job.py"}
        path = self.folder / "job.yaml"
        path.write_text(json.dumps({**made, "outputs": {"model": {}}, "params": params, **given}))
        return path

    def starts(self, count: int = 1) -> list[str]:
        """The runs that started, once there are `count` of them."""

        def started() -> list[str] | None:
            found = self.note.read_text().split() if self.note.exists() else []
            return found if len(found) >= count else None

        return until(started, 60.0)

    def state(self, run: str) -> State:
        """What the platform says of a run."""
        platform = backend.load("local", backend.Settings("local", {}, self.server.mlctl))
        answer = platform.status([Run.parse(run)])[Run.parse(run)]
        return answer.state


@pytest.fixture
def job(tmp_path: Path, server: Airflow) -> Job:
    return Job(tmp_path, server)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def task_process(server: Airflow, run: DagRun) -> int:
    """The process that executes the task; 0 before there is one."""
    return int(run.task()["pid"] or 0)


def waited_for(run: DagRun, dag: str) -> None:
    """Returns once a worker, or a triggerer, is waiting: a trigger that none has loaded yet hears of nothing."""
    run.until("running" if dag == "here" else "deferred")
    until(lambda: "say: hello" in run.log(), 60.0, 0.5)


@BOTH
def test_success(server: Airflow, job: Job, dag: str) -> None:
    """The log shows while it runs; output and metrics reach Airflow; waited for on a worker or in the triggerer."""
    run = server.trigger(dag, job.file(open_gate=False))
    waited_for(run, dag)
    job.gate.touch()
    assert run.until("success", "failed") == "success"
    answer = run.xcom()
    assert Path(run.xcom("model"), "model.txt").read_text() == "hello"
    assert answer["outputs"] == {"model": run.xcom("model")} and answer["metrics"] == {"score": 0.5}
    assert job.starts() == [answer["run"]]


@BOTH
def test_secrets_masked(server: Airflow, job: Job, dag: str) -> None:
    """A job that prints its secret prints stars in the task's log."""
    run = server.trigger(dag, job.file(secrets=["HF_TOKEN"], params={"show": "HF_TOKEN"}))
    assert run.until("success", "failed") == "success"
    assert "HF_TOKEN ***" in run.log() and "hf-very-secret-token" not in run.log()


def test_user_failure(server: Airflow, job: Job) -> None:
    """A failed job obeys the task's retries: one attempt for each try."""
    run = server.trigger("here", job.file(params={"fails": 99}))
    assert run.until("failed", "success") == "failed"
    assert run.task()["try_number"] == 3 and len(job.starts()) == 3
    assert "test-" in run.log() and "failed (error)" in run.log()


def test_retryable_failure(server: Airflow, job: Job) -> None:
    """The job's own `retry` is spent within one try, deferred anew; the task's retries come after it."""
    run = server.trigger("deferred", job.file(params={"fails": 1}, retry={"error": 1}))
    assert run.until("success", "failed", seconds=90) == "success"
    assert run.task()["try_number"] == 1 and len(job.starts()) == 2


def test_retry_stays_on_its_target(server: Airflow, job: Job) -> None:
    """The first try's target is the later ones', though the template says another by then (Airflow 3.3 and later)."""
    run = server.trigger("moves", job.file(params={"fails": 1}))
    assert run.until("success", "failed") == "success"
    assert run.task()["try_number"] == 2 and len(job.starts()) == 2


@pytest.mark.parametrize("killed", ["task", "worker", "both"])
def test_adopt_after_crash(server: Airflow, job: Job, killed: str) -> None:
    """`kill -9` of the task's process, of its supervisor, or of both: the next try finds the one run, and its result."""
    run = server.trigger("here", job.file(open_gate=False))
    (first,) = job.starts()
    task = until(lambda: task_process(server, run))
    worker = parent(task)
    for name, pid in (("task", task), ("worker", worker)):
        if killed in (name, "both"):
            os.kill(pid, signal.SIGKILL)
    until(lambda: run.task()["try_number"] == 2 and run.state() == "running", 90.0)
    job.gate.touch()
    assert run.until("success", "failed") == "success"
    assert job.starts() == [first] and run.xcom()["run"] == first


@BOTH
def test_cancel(server: Airflow, job: Job, dag: str) -> None:
    """Marking the task failed ends the platform's run, deferred (Airflow 3.3 and later) or not."""
    run = server.trigger(dag, job.file(open_gate=False))
    (first,) = job.starts()
    waited_for(run, dag)
    run.mark("failed")
    until(lambda: job.state(first) is State.CANCELLED)
    assert job.starts() == [first] and run.state() == "failed"


def test_cancel_dag_run(server: Airflow, job: Job) -> None:
    """Marking the DAG run failed does the same."""
    run = server.trigger("deferred", job.file(open_gate=False))
    (first,) = job.starts()
    waited_for(run, "deferred")
    run.mark_run("failed")
    until(lambda: job.state(first) is State.CANCELLED)


@pytest.mark.parametrize("dag", ["late", "late_deferred"])
def test_timeout(server: Airflow, job: Job, dag: str) -> None:
    """`execution_timeout` ends the run, deferred or not."""
    run = server.trigger(dag, job.file(open_gate=False))
    assert run.until("failed", "success") == "failed"
    until(lambda: job.state(job.starts()[0]) is State.CANCELLED)


@BOTH
def test_rerun(server: Airflow, job: Job, dag: str) -> None:
    """A clear of a finished task starts a new run."""
    run = server.trigger(dag, job.file())
    assert run.finished() == "success"
    run.clear()
    job.starts(2)
    assert run.until("success", "failed") == "success"
    assert len(set(job.starts(2))) == 2 and run.xcom()["run"] == job.starts(2)[1]


@BOTH
def test_late_cancel_of_old_owner(server: Airflow, job: Job, dag: str) -> None:
    """A clear while it runs: the old run is cancelled, by its own owner and no other, and the new one goes on."""
    run = server.trigger(dag, job.file(open_gate=False))
    (first,) = job.starts()
    waited_for(run, dag)
    run.clear()
    second = job.starts(2)[1]
    until(lambda: job.state(first) is State.CANCELLED)
    job.gate.touch()
    assert run.until("success", "failed", seconds=90) == "success"
    assert job.starts(2) == [first, second] and run.xcom()["run"] == second


def test_rerun_after_an_edit_of_retries(server: Airflow, job: Job) -> None:
    """`max_tries` is the same after an edit of `retries` from 2 to 1 and a clear; it is a new run all the same."""
    number = Path(server.environment["RETRIES"])
    number.write_text("2")
    run = server.trigger("edited", job.file())
    assert run.finished() == "success"
    before = server.ask("GET", "/api/v2/dags/edited")["last_parsed_time"]
    number.write_text("1")
    parsed = lambda: server.ask("GET", "/api/v2/dags/edited")["last_parsed_time"] > before  # noqa: E731
    until(parsed, 60.0, 0.5)
    tries = run.task()["max_tries"]
    run.clear()
    job.starts(2)
    assert run.until("success", "failed") == "success"
    assert run.task()["max_tries"] == tries and len(set(job.starts(2))) == 2


def test_worker_stop_leaves(server: Airflow, job: Job) -> None:
    """`on_worker_stop="leave"`: SIGTERM ends the try, not the run; the next try finds it."""
    run = server.trigger("leave", job.file(open_gate=False))
    (first,) = job.starts()
    os.kill(until(lambda: task_process(server, run)), signal.SIGTERM)
    until(lambda: run.task()["try_number"] == 2 and run.state() == "running", 60.0)
    job.gate.touch()
    assert run.until("success", "failed") == "success"
    assert job.starts() == [first]


def test_worker_stop_cancels(server: Airflow, job: Job) -> None:
    """By default SIGTERM cancels the run, and the retry starts the next attempt."""
    run = server.trigger("here", job.file(open_gate=False))
    (first,) = job.starts()
    os.kill(until(lambda: task_process(server, run)), signal.SIGTERM)
    second = job.starts(2)[1]
    assert job.state(first) is State.CANCELLED and second != first
    job.gate.touch()
    assert run.until("success", "failed") == "success"


def test_cancel_where_worker_stops_leave(server: Airflow, job: Job) -> None:
    """With `leave`, too, what a user does ends the run."""
    run = server.trigger("leave", job.file(open_gate=False))
    (first,) = job.starts()
    run.until("running")
    run.mark("failed")
    until(lambda: job.state(first) is State.CANCELLED)


def test_changed_job(server: Airflow, job: Job) -> None:
    """A try that finds a run of another version of the job fails at once, and says what differs."""
    run = server.trigger("here", job.file(open_gate=False))
    (first,) = job.starts()
    task = until(lambda: task_process(server, run))
    job.file(open_gate=False, params={"say": "another"})
    os.kill(task, signal.SIGKILL)
    assert run.until("failed", "success") == "failed"
    log = run.log(tries=2)
    assert run.task()["try_number"] == 2 and "params changed" in log and first in log
    job.gate.touch()
    until(lambda: job.state(first).terminal)


def test_adopt_after_crash_of_the_triggerer(server: Airflow, job: Job) -> None:
    """A triggerer that dies neither cancels nor loses a run: the next one goes on watching."""
    run = server.trigger("deferred", job.file(open_gate=False))
    (first,) = job.starts()
    run.until("deferred")
    assert kill("triggerer")
    assert not job.state(first).terminal
    server.start("triggerer")
    job.gate.touch()
    assert run.until("success", "failed", seconds=90) == "success"
    assert job.starts() == [first]


def test_adopt_after_crash_of_the_scheduler(server: Airflow, job: Job) -> None:
    """A scheduler that dies ends no run: its worker goes on, or the next scheduler's try finds the run."""
    run = server.trigger("here", job.file(open_gate=False))
    (first,) = job.starts()
    assert kill("scheduler")
    server.start("scheduler")
    job.gate.touch()
    assert run.until("success", "failed", seconds=120) == "success"
    assert job.starts() == [first]
