"""Ends the jobs of a flow run that can't do so itself any more.

    @flow(on_cancellation=[stop_jobs], on_crashed=[stop_jobs])

A task that hears of its cancellation ends its job. This is for where nobody hears: the runner had to kill the process,
or it crashed. Without it on `on_crashed`, a crashed flow run's jobs go on, and are found by its next execution.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging import get_logger

from mlctl import backend as backends
from mlctl import lifecycle
from mlctl.backend import Settings
from mlctl.errors import MlctlError
from mlctl.runs import Key

from .artifacts import PLAN, read_plan

__all__ = ["stop_jobs"]

_PAGE = 100
_GRACE = 20.0  # seconds to see the end of each job


def stop_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """A flow's hook: asks for the end of every job that the flow run started, and says what became of each."""
    logger = get_logger("mlctl")
    for shown in _plans(flow_run.id):
        settings = Settings(shown["target"], shown["settings"], Path(shown["home"]))
        try:
            backend = backends.load(shown["backend"], settings)
            for found in backend.find(Key(shown["key"], shown["job"])):
                if not found.status.state.terminal:
                    status = lifecycle.cancel(backend, found.run, _GRACE)
                    logger.info("%s is %s", found.run, status.state.value if status else "stopping")
        except MlctlError as error:
            logger.error("%s, key %s: could not be ended: %s", shown["job"], shown["key"], error)


def _plans(flow_run: Any) -> Iterator[dict[str, Any]]:
    """What every call of the flow run planned, each key once."""
    seen: set[str] = set()
    asked: dict[str, Any] = {  # all of it: the client sends null for what is left out, and the server refuses that
        "artifact_filter": ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])),
        "flow_run_filter": FlowRunFilter(),
        "task_run_filter": TaskRunFilter(),
        "sort": ArtifactSort.ID_DESC,
        "limit": _PAGE,
    }
    with get_client(sync_client=True) as client:
        offset = 0
        while page := client.read_artifacts(**asked, offset=offset):
            offset += len(page)
            for artifact in page:
                if artifact.description == PLAN and isinstance(artifact.data, str):
                    shown = read_plan(artifact.data)
                    if shown["key"] not in seen:
                        seen.add(shown["key"])
                        yield shown
