"""What is Airflow's own, on a real one, beside what tests/behaviour.py promises on every orchestrator: clears of what still
runs, edits of a DAG, workers, supervisors and schedulers that are stopped or killed, the page of a run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from airflow_harness import AirflowHarness
from airflow_server import AIRFLOW, DAGS, EVERY, Airflow, DagRun, kill, parent, processes

from behaviour import PATIENCE, Call, Probe, until
from mlctl.runs import State

BOTH = pytest.mark.parametrize("dag", ["here_2", "deferred_2"])


@pytest.fixture
def probe(server: Airflow, project: Path, tmp_path: Path) -> Probe:
    return Probe(AirflowHarness(server, "here", project), tmp_path / "traces")


@pytest.fixture
def waiting(server: Airflow, probe: Probe) -> Any:
    """Runs of a DAG that wait until they may go on."""

    def started(dag: str, **call: Any) -> DagRun:
        return server.trigger(dag, Call(probe.write(params={"wait": True}), **call))

    return started


def watched(run: DagRun) -> None:
    """Returns once a worker, or a triggerer, watches."""
    until(lambda: "said: hello" in run.log(), "the log of the running job", PATIENCE, EVERY)
    if run.dag.startswith("deferred"):
        run.watched()


def signalled(run: DagRun, sign: int) -> None:
    os.kill(run.process(), sign)


@BOTH
def test_clear_of_what_runs(waiting: Any, probe: Probe, dag: str) -> None:
    """The old run is cancelled, by its own owner and no other, late as it may be; the new one goes on."""
    run = waiting(dag)
    (first,) = probe.starts(1)
    watched(run)
    run.clear()
    second = probe.starts(2)[1]
    assert probe.over(first).state is State.CANCELLED
    probe.go()
    assert run.finished() == "success"
    assert probe.starts() == [first, second] and run.xcom()["run"] == second


def test_clear_after_an_edit_of_retries(server: Airflow, probe: Probe) -> None:
    """`max_tries` is the same after an edit of `retries` from 2 to 1 and a clear; it is a new run all the same."""
    run = server.trigger("edited", Call(probe.write()))
    assert run.finished() == "success"
    tries = run.task()["max_tries"]
    file = DAGS / "edited.py"
    file.write_text(file.read_text().replace("RETRIES = 2", "RETRIES = 1"))
    versions = "/api/v2/dags/edited/dagVersions"  # the newest is what a clear goes by
    until(lambda: server.ask("GET", versions)["total_entries"] == 2, "the edited DAG to be kept", PATIENCE, EVERY)
    run.clear()
    first, second = probe.starts(2)
    assert run.finished() == "success" and run.task()["max_tries"] == tries
    assert first != second and run.xcom()["run"] == second


def test_retry_stays_on_its_target(server: Airflow, probe: Probe) -> None:
    """The first try's target is the later ones', though the template says another by then (Airflow 3.3 and later)."""
    run = server.trigger("moves", Call(probe.write(params={"fail": 1})))
    if AIRFLOW < (3, 3):  # nothing remembers it, and the template's word counts
        assert run.finished() == "failed" and "target 'nowhere' is not in the configuration" in run.log()
        return
    assert run.finished() == "success"
    assert run.task()["try_number"] == 2 and len(probe.starts()) == 2


def test_killed_supervisors(waiting: Any, probe: Probe) -> None:
    """`kill -9` of a task's supervisor, its process left as an orphan that goes on waiting; or of both. The next try finds
    the one run, and an orphan does no harm to it."""
    orphaned, both = waiting("here_2"), waiting("here_2")
    runs = {run.log: None for run in (orphaned, both)}
    assert len(set(probe.starts(2))) == len(runs)
    for run in (orphaned, both):
        watched(run)  # an orphan that had more to say would end, as nobody reads it
    orphan, other = orphaned.process(), both.process()
    for pid in (parent(orphan), parent(other), other):
        os.kill(pid, signal.SIGKILL)
    for run in (orphaned, both):
        run.until("running", tries=2)
        until(lambda run=run: "found local://" in run.log(), "the next try to find the run", PATIENCE, EVERY)
    assert Path(f"/proc/{orphan}").exists()
    probe.go()
    assert (orphaned.finished(), both.finished()) == ("success", "success")
    assert sorted(run.xcom()["run"] for run in (orphaned, both)) == sorted(probe.starts())


def test_killed_scheduler(server: Airflow, waiting: Any, probe: Probe) -> None:
    """A scheduler that dies ends no run: its worker goes on, or the next scheduler's try finds the run."""
    run = waiting("here_2")
    (first,) = probe.starts(1)
    assert kill("airflow", "scheduler")
    server.start("scheduler")
    probe.go()
    assert run.finished() == "success"
    assert probe.starts() == [first] and run.xcom()["run"] == first


def test_stopped_triggerer(server: Airflow, waiting: Any, probe: Probe) -> None:
    """A triggerer that is stopped, as one is for a new version of Airflow, cancels no run; the next goes on watching."""
    run = waiting("deferred_2")
    (first,) = probe.starts(1)
    watched(run)
    server.restart_triggerer(signal.SIGTERM)
    assert not probe.harness.status(first).state.terminal
    probe.go()
    assert run.finished() == "success"
    assert probe.starts() == [first] and run.xcom()["run"] == first


def test_cancel_of_the_dag_run(waiting: Any, probe: Probe) -> None:
    """Marking the DAG run failed ends its deferred tasks' runs."""
    run = waiting("deferred_2")
    (first,) = probe.starts(1)
    watched(run)
    run.mark_run("failed")
    assert probe.over(first).state is State.CANCELLED


def test_stopped_worker(waiting: Any, probe: Probe) -> None:
    """SIGTERM ends the try and cancels the run, and the retry starts the next attempt."""
    run = waiting("here_2")
    (first,) = probe.starts(1)
    signalled(run, signal.SIGTERM)
    second = probe.starts(2)[1]
    assert probe.harness.status(first).state is State.CANCELLED and second != first
    probe.go()
    assert run.finished() == "success"


def test_stopped_worker_leaves(waiting: Any, probe: Probe) -> None:
    """`on_worker_stop="leave"`: SIGTERM ends the try, not the run, which the next try finds; what a user does ends it."""
    run = waiting("leave")
    (first,) = probe.starts(1)
    signalled(run, signal.SIGTERM)
    run.until("running", tries=2)
    until(lambda: f"found {first}" in run.log(), "the next try to find the run", PATIENCE, EVERY)
    assert not probe.harness.status(first).state.terminal
    run.mark("failed")
    assert probe.over(first).state is State.CANCELLED and probe.starts() == [first]


@BOTH
def test_link(waiting: Any, probe: Probe, dag: str) -> None:
    """The task's page leads to the run's on its platform, while it runs and after."""
    probe.go("submitting", "submitted", "succeeded")
    run = waiting(dag, target="held")
    (first,) = probe.starts(1)
    address = f"https://platform.example/{first.rpartition('/')[2]}"
    until(lambda: run.link() == address, "the link", PATIENCE, EVERY)
    assert not probe.harness.status(first).state.terminal
    probe.go()
    assert run.finished() == "success" and run.link() == address


def test_connection_form(server: Airflow) -> None:
    """The form of the connection type has the fields that mean something to it, and no other."""
    (form,) = [one for one in server.ask("GET", "/ui/connections/hook_meta") if one["connection_type"] == "mlctl"]
    assert list(form["extra_fields"]) == ["config", "profile", "target"]
    assert form["extra_fields"]["profile"]["schema"]["title"] == "Profile"
    assert all(form["standard_fields"][name]["hidden"] for name in ("host", "port", "login", "password", "url_schema"))


def test_stalled_triggerer(server: Airflow, waiting: Any, probe: Probe) -> None:
    """A triggerer that comes back to find that another has its triggers, after a pause or a blocked event loop, cancels no
    run: Airflow tells its triggers the same as where a user acts on their tasks."""
    run = waiting("deferred_2")
    (first,) = probe.starts(1)
    watched(run)
    stalled = processes("airflow", "triggerer")
    for pid in stalled:
        os.kill(pid, signal.SIGSTOP)
    server.start("triggerer")
    until(lambda: len(re.findall("trigger .* starting", run.log())) > 1, "the other triggerer", PATIENCE, EVERY)
    for pid in stalled:
        os.kill(pid, signal.SIGCONT)
    if AIRFLOW >= (3, 3):  # earlier ones have closed a trigger's log by then
        until(lambda: f"{first} goes on" in run.log(), "the first one to ask", PATIENCE, EVERY)
    assert not probe.harness.status(first).state.terminal
    probe.go()
    assert run.finished() == "success"
    assert probe.starts() == [first] and run.xcom()["run"] == first


@BOTH
def test_dag_run_made_anew(server: Airflow, waiting: Any, probe: Probe, dag: str) -> None:
    """A DAG run that was deleted and made anew under its old name, as a backfill's are, is a new run of its jobs."""
    probe.go()
    run = waiting(dag)
    assert run.finished() == "success"
    (first,) = probe.starts(1)
    again = {"logical_date": None, "dag_run_id": run.run_id, "conf": server.ask("GET", run.path)["conf"]}
    server.ask("DELETE", run.path)
    server.ask("POST", f"/api/v2/dags/{run.dag}/dagRuns", again)
    assert run.finished() == "success"
    _, second = probe.starts(2)
    assert first != second and run.xcom()["run"] == second
