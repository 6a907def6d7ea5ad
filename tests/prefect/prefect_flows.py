"""Flows that tests have executed in processes of their own: by a runner that serves them, or by a plain process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow

from mlctl_prefect import MlctlJob, MlctlResult, mlctl_task, stop_jobs


@flow(persist_result=True)
def pipeline(call: dict[str, Any], home: str) -> MlctlResult:
    """A call of the contract of behaviour, and what is to follow it; the last one's result."""
    os.environ["MLCTL_HOME"] = home
    inputs: dict[str, str] = {}
    while True:
        task = mlctl_task(
            call["job"],
            target=call["target"],
            retries=call["retries"],
            timeout_seconds=call["limit"],
            persist_result=False,
        )
        result: MlctlResult = task(call["params"], inputs)
        if not call["then"]:
            return result
        call, inputs = call["then"], {"before": result.outputs["model"]}


@flow
def nightly(job: Path, home: str, how: str = "call") -> str:
    os.environ["MLCTL_HOME"] = home
    train = mlctl_task(job)
    if how == "submit":
        return str(train.submit().result().run)
    if how == "map":
        return str([one.result().run for one in train.map([{}, {}])])
    if how == "subflow":
        return nightly(job, home)
    if how == "block":
        return str(MlctlJob(job=str(job)).trigger().fetch_result().run)
    return str(train().run)


@flow
async def nightly_async(job: Path, home: str) -> str:
    os.environ["MLCTL_HOME"] = home
    return str((await mlctl_task(job)()).run)


@flow(on_crashed=[stop_jobs])
def fragile(job: Path, home: str, how: str) -> str:
    return nightly(job, home, how)


if __name__ == "__main__":
    from prefect import serve

    serve(*(one.to_deployment("tested") for one in (pipeline, nightly, nightly_async, fragile)))  # type: ignore[attr-defined]
