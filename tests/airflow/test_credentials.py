"""A connection whose credentials change while triggers use it, on SageMaker's stand-in: it refuses the old ones."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlctl
import standins
from mlctl.backend import Settings, load
from mlctl.backends.sagemaker import SageMaker
from mlctl.runs import State

pytestmark = pytest.mark.filterwarnings("default")  # Airflow's own
OLD, NEW = "AKIAIOSFODNN7EXAMPLE", "AKIAI44QH8DHBEXAMPLE"
MANY = 5
PATIENCE = 60.0


class Account:
    """The stand-in, and the connection `rotated`, as a secrets backend would change it."""

    def __init__(self, standin: standins.Standin, data: Path, home: Path, env: pytest.MonkeyPatch) -> None:
        self.settings = Settings("cloud", {n: v for n, v in standin.target.items() if n != "backend"}, home)
        self.url, self.data, self.env = standin.env["AWS_ENDPOINT_URL"], data, env
        self.connect(OLD, "first")

    def connect(self, key: str, token: str = "", **extra: str) -> None:
        """What Airflow's connection has from now on."""
        extra |= {"aws_session_token": token} if token else {}
        fields = {"conn_type": "aws", "login": key, "password": "none", "extra": extra}
        self.env.setenv("AIRFLOW_CONN_ROTATED", json.dumps(fields))

    def revoke(self, who: str) -> None:
        with (self.data / "revoked").open("a") as file:
            file.write(f"{who}\n")

    def calls(self, what: str = "taken") -> Counter[str]:
        """Whose calls the stand-in took, or refused."""
        path = self.data / what
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def submit(self, count: int) -> list[mlctl.RunHandle]:
        (Path.cwd() / "mlctl.yaml").write_text(
            json.dumps({"targets": {"cloud": {"backend": "sagemaker", **self.settings.values}}})
        )
        job = {"kind": "train", "name": "waits", "command": "true"}
        return [mlctl.submit(job, target="cloud", key=f"{self.data}{one}") for one in range(count)]

    def trigger(self, run: mlctl.RunHandle) -> Any:
        from mlctl_airflow.triggers import RunTrigger

        return RunTrigger(run.url, "cloud", self.settings.values, str(self.settings.home), conn_id="rotated")


@pytest.fixture
def account(project: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    from mlctl_airflow import connections

    for name in ("_lent", "_own"):
        monkeypatch.setattr(connections, name, {})
    for name in connections.VARIABLES["aws"]:
        monkeypatch.delenv(name, raising=False)
    with standins.running("sagemaker", tmp_path / "standin", "rotating") as standin:
        for name, value in standin.env.items():
            monkeypatch.setenv(name, value)
        yield Account(standin, tmp_path / "standin/data", home, monkeypatch)


async def event(one: Any) -> dict[str, Any]:
    return await anext(each.payload async for each in one.run())


async def until(seen: Callable[[], bool], *waiting: asyncio.Task[Any]) -> None:
    """Returns once `seen`, or once one of those that wait has ended."""
    deadline = time.monotonic() + PATIENCE
    while not seen() and not any(one.done() for one in waiting):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 2 * PATIENCE))


@pytest.mark.parametrize("token", ["second", ""])
def test_rotated(account: Account, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session token ran out: the connection is fetched anew, once for all of its target's triggers, and they go on."""
    runs, made, make = account.submit(MANY), [], SageMaker.__init__
    monkeypatch.setattr(SageMaker, "__init__", lambda self, settings: (made.append(1), make(self, settings))[1])
    new = f"{NEW} {token}".rstrip()

    async def rotated() -> list[dict[str, Any]]:
        waiting = [asyncio.create_task(event(account.trigger(one))) for one in runs]
        await until(lambda: account.calls()[f"{OLD} first"] > 3, *waiting)
        account.connect(NEW, token)
        account.revoke(f"{OLD} first")
        await until(lambda: account.calls()[new] > 3, *waiting)
        (account.data / "gate").touch()
        return await asyncio.gather(*waiting)

    events = run(rotated())
    assert [one["error"] for one in events] == [""] * MANY
    assert len(made) == 2
    states = load("sagemaker", account.settings).status([one.run for one in runs])
    assert [states[one.run].state for one in runs] == [State.SUCCEEDED] * MANY


def test_refused_for_good(account: Account) -> None:
    """Where the connection is what it was, the event tells what the platform says: a worker waits. Once it was changed, the
    next trigger goes on."""
    runs = account.submit(2)

    async def refused() -> None:
        waiting = [asyncio.create_task(event(account.trigger(one))) for one in runs]
        await until(lambda: account.calls()[f"{OLD} first"] > 3, *waiting)
        account.revoke(f"{OLD} first")
        errors = [one["error"] for one in await asyncio.gather(*waiting)]
        assert all("security token included in the request is expired" in error for error in errors)
        account.connect(NEW)
        waiting = [asyncio.create_task(event(account.trigger(one))) for one in runs]
        await until(lambda: account.calls()[NEW] > 3, *waiting)
        (account.data / "gate").touch()
        assert [one["error"] for one in await asyncio.gather(*waiting)] == ["", ""]

    run(refused())


def test_elsewhere(account: Account) -> None:
    """A connection that led elsewhere, and leads to the run now; one that leads nowhere still is told."""
    (one,) = account.submit(1)
    account.connect(OLD, endpoint_url="http://127.0.0.1:9")

    async def led() -> None:
        assert "http://127.0.0.1:9" in (await event(account.trigger(one)))["error"]
        account.connect(OLD, endpoint_url=account.url)
        (account.data / "gate").touch()
        assert (await event(account.trigger(one)))["error"] == ""

    run(led())


@pytest.mark.usefixtures("failed")
def test_cancelled(account: Account) -> None:
    """A user acts on the deferred task when the credentials in use have run out: its run ends all the same."""
    (one,) = account.submit(1)

    async def killed() -> None:
        trigger = account.trigger(one)
        waiting = asyncio.create_task(event(trigger))
        await until(lambda: account.calls()[f"{OLD} first"] > 3, waiting)
        waiting.cancel()
        account.connect(NEW)
        account.revoke(f"{OLD} first")
        await asyncio.wait([waiting])
        await trigger.on_kill()

    run(killed())
    assert load("sagemaker", account.settings).status([one.run])[one.run].state is State.CANCELLED


def test_lent(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the connection has no more is the process's own again; no session token stays beside keys that aren't its own."""
    from mlctl_airflow import connections

    def shown(*names: str) -> list[str | None]:
        connections.lend(connections.get("rotated"))
        return [os.environ.get(f"AWS_{name}") for name in names]

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-own-1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-process")
    account.connect(OLD, "first", region_name="eu-west-9")
    assert shown("ACCESS_KEY_ID", "SESSION_TOKEN", "DEFAULT_REGION") == [OLD, "first", "eu-west-9"]
    account.connect(NEW)
    assert shown("ACCESS_KEY_ID", "SESSION_TOKEN", "DEFAULT_REGION") == [NEW, "", "eu-own-1"]
