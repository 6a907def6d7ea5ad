"""Flows in processes of their own, plain and under a runner: subflows, cancels, crashes."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from prefect_harness import Jobs, Prefect, until


@pytest.fixture
def given(jobs: Jobs) -> dict[str, Any]:
    """The parameters of a flow whose job waits."""
    return {"job": str(jobs.write(gated=True)), "home": str(jobs.home)}


def test_a_subflow_is_found_by_its_place(prefect: Prefect, jobs: Jobs, given: dict[str, Any]) -> None:
    """Executed again after a kill -9, the flow's subflow has one job, started once."""
    run = prefect.plain("nightly", **given, how="subflow")
    first = prefect.execute(run)
    until(lambda: jobs.said("started"), what="the job")
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    prefect.set(run, "SCHEDULED")
    second = prefect.execute(run)
    jobs.open()
    assert second.wait(120) == 0
    assert prefect.state(run) == "COMPLETED" and jobs.said("started") == jobs.attempts() == 1


@pytest.mark.parametrize("how", ["map", "subflow"])
def test_cancel_in_a_plain_process(prefect: Prefect, jobs: Jobs, given: dict[str, Any], how: str) -> None:
    """Prefect tells a plain process nothing; the tasks ask the server, end their jobs, and the process ends.

    The flow run stays CANCELLING: Prefect leaves the last step to a runner, and there is none.
    """
    run = prefect.plain("nightly", **given, how=how)
    process = prefect.execute(run)
    count = 2 if how == "map" else 1
    until(lambda: jobs.said("started") == count, what="the jobs")
    prefect.set(run, "CANCELLING")
    assert process.wait(120) == 1 and prefect.state(run) == "CANCELLING"
    assert jobs.said("stopped") == count and jobs.attempts() == count


def test_cancel(prefect: Prefect, jobs: Jobs, given: dict[str, Any]) -> None:
    """Cancelled where a runner executes it, a flow run ends its jobs: awaited, mapped over threads."""
    started = 0
    for flow, parameters, count in (("nightly-async", {}, 1), ("nightly", {"how": "map"}, 2)):
        run = prefect.served(flow, **given, **parameters)
        started += count
        until(lambda now=started: jobs.said("started") == now, what="the jobs")
        prefect.set(run, "CANCELLING")
        until(lambda run=run: prefect.state(run) == "CANCELLED", what=f"the end of {flow} {parameters}")
        assert jobs.said("stopped") == started
    assert jobs.attempts() == started == 3


@pytest.mark.parametrize("how", ["subflow", "block"])
def test_crash_hook(prefect: Prefect, jobs: Jobs, given: dict[str, Any], how: str) -> None:
    """A flow that was killed under a runner has its jobs, its subflow's and those of no task too, ended by stop_jobs, and its
    log says so."""
    run = prefect.served("fragile", **given, how=how)
    until(lambda: jobs.said("started"), what="the job")
    prefect.kill(run)
    until(lambda: jobs.said("stopped"), what="the hook")
    until(lambda: prefect.state(run) == "CRASHED", what="the crash")
    until(lambda: "is cancelled" in prefect.log(run), what="the hook's word")
    assert jobs.attempts() == 1
