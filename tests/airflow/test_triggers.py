"""The triggers, in an event loop of their own: one thread serves them all, and none of them ends a run by going away."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import mlctl
from behaviour import PATIENCE
from mlctl.backends.local import Local
from mlctl.runs import State

pytestmark = pytest.mark.filterwarnings("default")  # Airflow's own
MANY = 20


@pytest.fixture
def runs(project: Path) -> list[mlctl.RunHandle]:
    """Runs that go on until the file `gate` is there."""
    (project / "wait.sh").write_text("until [ -e $GATE ]; do sleep 0.1; done\n")
    job = {"kind": "process", "name": "waits", "code": str(project), "command": "sh wait.sh"}
    return [mlctl.submit({**job, "env": {"GATE": str(project.parent / "gate")}}) for _ in range(MANY)]


def trigger(run: mlctl.RunHandle, **given: Any) -> Any:
    from mlctl_airflow.triggers import RunTrigger

    return RunTrigger(run.url, "local", {}, str(run.backend.settings.home), **given)


async def watched(*triggers: Any) -> None:
    """Returns once the poller waits for all of them."""

    def waiters() -> int:
        poller = triggers[0]._target._poller
        return sum(map(len, poller._waiting.values())) if poller else 0

    deadline = time.monotonic() + PATIENCE
    while waiters() < len(triggers):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def event(one: Any) -> dict[str, Any]:
    return await anext(each.payload async for each in one.run())


def test_one_thread_serves_all(runs: list[mlctl.RunHandle], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty triggers, as Airflow makes them anew from what it kept, one backend and one poller."""
    made, make = [], Local.__init__
    monkeypatch.setattr(Local, "__init__", lambda self, settings: (made.append(settings), make(self, settings))[1])
    again = [type(one)(**one.serialize()[1]) for one in map(trigger, runs)]

    async def all_of_them() -> list[dict[str, Any]]:
        waiting = [asyncio.create_task(event(one)) for one in again]
        await watched(*again)
        assert sum(thread.name == "mlctl-local" for thread in threading.enumerate()) == 1
        (project.parent / "gate").touch()
        return await asyncio.gather(*waiting)

    events = asyncio.run(all_of_them())
    assert {(one["error"], one["late"], one["cursor"]) for one in events} == {("", False, "")}
    assert [one["deferral"]["run"] for one in events] == [run.url for run in runs]
    assert {run.status().state for run in runs} == {State.SUCCEEDED}
    assert len(made) == 1


def test_first_look_at_the_log_comes_at_random(
    runs: list[mlctl.RunHandle], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triggers start by the hundred: what they do every so often isn't to come all at once."""
    from mlctl_airflow.triggers import RunTrigger

    looked = asyncio.Event()

    async def look(*_: Any) -> None:
        looked.set()

    async def whole() -> dict[str, Any]:
        waiting = asyncio.create_task(event(trigger(runs[0], log_interval=1e4)))
        await asyncio.wait_for(looked.wait(), PATIENCE)
        (project.parent / "gate").touch()
        return await waiting

    monkeypatch.setattr(RunTrigger, "_show", look)
    monkeypatch.setattr("random.random", lambda: 1e-5)
    assert asyncio.run(whole())["error"] == ""
    for run in runs:
        run.wait(PATIENCE)


def test_stop_leaves_the_run(runs: list[mlctl.RunHandle], project: Path) -> None:
    """A triggerer's stop cancels its tasks, and no run; a second waiter for the same run doesn't notice."""

    async def stopped() -> dict[str, Any]:
        both = [trigger(runs[0]) for _ in range(2)]
        first, second = (asyncio.create_task(event(one)) for one in both)
        await watched(*both)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled() and not runs[0].status().state.terminal
        (project.parent / "gate").touch()
        return await second

    assert asyncio.run(stopped())["error"] == ""
    for run in runs:
        run.wait(PATIENCE)


async def stopped(*triggers: Any) -> None:
    """As Airflow stops them where a user acts on their tasks."""
    waiting = [asyncio.create_task(event(one)) for one in triggers]
    await watched(*triggers)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert all(one.cancelled() for one in waiting)


async def over(*runs: mlctl.RunHandle) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(run.status().state.terminal for run in runs):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("failed")
def test_on_kill_sees_the_end_of_its_own_run(runs: list[mlctl.RunHandle], project: Path) -> None:
    """What a user does to the deferred task ends that run, and no other."""

    async def killed() -> None:
        one = trigger(runs[0])
        await stopped(one)
        await one.on_kill()

    asyncio.run(killed())
    assert [run.status().state for run in runs[:2]] == [State.CANCELLED, State.RUNNING]
    (project.parent / "gate").touch()
    for run in runs[1:]:
        run.wait(PATIENCE)


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("torn", [False, True])
def test_run_ends_without_on_kill(runs: list[mlctl.RunHandle], torn: bool) -> None:
    """Airflow cancels a trigger that it stops again each second: its `on_kill` too, or what comes before that, and then it is never
    called."""

    async def killed() -> None:
        made = [trigger(run) for run in runs]
        await stopped(*made)
        if torn:
            waits = [asyncio.create_task(one.on_kill()) for one in made]
            await asyncio.sleep(0)
            for one in waits:
                one.cancel()
            await asyncio.wait(waits)
            assert all(one.cancelled() for one in waits)
        await over(*runs)

    asyncio.run(killed())
    assert {run.status().state for run in runs} == {State.CANCELLED}


@pytest.mark.usefixtures("failed")
def test_run_ends_once_airflow_and_the_platform_answer(
    runs: list[mlctl.RunHandle], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that fails, as of a busy database, loses no run."""
    from mlctl.errors import Unavailable
    from mlctl_airflow import identity

    given_up, cancel = identity.given_up, Local.cancel
    asked, told = [], []

    def answer(*words: Any) -> bool:
        asked.append(words)
        if len(asked) == 1:
            raise RuntimeError("database is locked")
        return given_up(*words)

    def tell(self: Local, run: Any) -> None:
        told.append(run)
        if len(told) == 1:
            raise Unavailable("an outage")
        cancel(self, run)

    async def killed() -> None:
        await stopped(trigger(runs[0]))
        await over(runs[0])

    monkeypatch.setattr(identity, "given_up", answer)
    monkeypatch.setattr(Local, "cancel", tell)
    asyncio.run(killed())
    assert runs[0].status().state is State.CANCELLED and len(asked) == 2 and len(told) > 1
    (project.parent / "gate").touch()
    for run in runs[1:]:
        run.wait(PATIENCE)


def test_no_log_before_the_deadline(
    runs: list[mlctl.RunHandle], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a `log_interval`, as a job with secrets has it, no log is read in a triggerer: not where its clock was set back
    while it slept, either, and the deadline's timer came early."""
    looked: list[Any] = []
    logs, now, set_back = Local.logs, time.time, 0.0
    monkeypatch.setattr(Local, "logs", lambda *given: (looked.append(given), logs(*given))[1])
    monkeypatch.setattr("mlctl_airflow.triggers.time.time", lambda: now() - set_back)

    async def whole() -> dict[str, Any]:
        nonlocal set_back
        one = trigger(runs[0], deadline=now() + 1)
        waiting = asyncio.create_task(event(one))
        await watched(one)
        set_back = 1.0
        return await waiting

    assert asyncio.run(whole())["late"] and not looked
    (project.parent / "gate").touch()
    for run in runs:
        run.wait(20)


def test_deadline_and_lost_run(runs: list[mlctl.RunHandle], project: Path) -> None:
    """The deadline ends the wait; so does a run that the platform doesn't know."""
    assert asyncio.run(event(trigger(runs[0], deadline=0.0)))["late"]
    lost = trigger(runs[0])
    lost.url = runs[0].url.removesuffix("-0") + "-7"
    assert "-7" in asyncio.run(event(lost))["error"]
    (project.parent / "gate").touch()
    for run in runs:
        run.wait(PATIENCE)
