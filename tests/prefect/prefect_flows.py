"""Flows that tests execute in processes of their own, and ways for such a process to die at a chosen stage."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow

from mlctl.backends.local import Local
from mlctl_prefect import mlctl_train, stop_jobs
from mlctl_prefect.drive import Drive

STAGE = os.environ.get("STAGE", "")
TRACE, GATE = Path(os.environ["TRACE"]), Path(os.environ["TRACE"]).with_name("submit-gate")
train = mlctl_train(os.environ["JOB"])
_submit, _stop = Local.submit, Drive.stop


def say(word: str) -> None:
    with TRACE.open("a") as trace:
        print(word, file=trace)


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def submit_and_die(*args: Any) -> Any:
    _submit(*args)
    die()


def submit_slowly(*args: Any) -> Any:
    say("submitting")
    while not GATE.exists():
        time.sleep(0.02)
    return _submit(*args)


def stop_and_say(drive: Drive) -> None:
    say("stopping")
    _stop(drive)


STAGES: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "before submit": (Local, "submit", die),
    "after submit": (Local, "submit", submit_and_die),
    "after success": (Local, "result", die),
    "slow submit": (Local, "submit", submit_slowly),
}
if STAGE:
    setattr(*STAGES[STAGE])
    Drive.stop = stop_and_say  # type: ignore[method-assign]


@flow
def nightly(how: str = "call") -> str:
    if how == "submit":
        return str(train.submit().result().run)
    if how == "map":
        return str([one.result().run for one in train.map([{}, {}])])
    return str(train().run)


@flow
async def nightly_async() -> str:
    return str((await train()).run)


@flow(on_crashed=[stop_jobs])
def fragile() -> str:
    return str(train().run)


if __name__ == "__main__":
    from prefect import serve

    serve(*(one.to_deployment("tested") for one in (nightly, nightly_async, fragile)))  # type: ignore[attr-defined]
    sys.exit()
