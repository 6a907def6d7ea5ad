"""Ends the jobs of a flow run that can't do so itself any more.

    @flow(on_cancellation=[stop_jobs], on_crashed=[stop_jobs])

A task that hears of its cancellation ends its job. This is for where nobody hears: the runner had to kill the process,
or it crashed. Without it on `on_crashed`, a crashed flow run's jobs go on, and are found by its next execution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging.loggers import flow_run_logger

from mlctl import backend as backends
from mlctl import lifecycle
from mlctl.backend import Backend, Settings
from mlctl.errors import MlctlError
from mlctl.runs import Key, Run

from .artifacts import PLAN, read_plan

__all__ = ["stop_jobs"]

_PAGE = 100
_GRACE = 20.0  # seconds to see the ends of all jobs


def stop_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """A flow's hook: asks for the end of every job that the flow run and its subflows started, and says in its log what
    became of each."""
    logger = flow_run_logger(flow_run, flow)
    running: list[tuple[Backend, Run]] = []
    for shown in _plans(flow_run.id):
        try:
            backend = backends.load(shown["backend"], Settings(shown["target"], shown["settings"], Path(shown["home"])))
            for found in backend.find(Key(shown["key"], shown["job"])):
                if not found.status.state.terminal and not lifecycle.cancel(backend, found.run, 0):
                    running.append((backend, found.run))
        except MlctlError as error:
            logger.error("%s, key %s: could not be ended: %s", shown["job"], shown["key"], error)
    deadline = time.monotonic() + _GRACE
    for backend, run in running:  # once all have been asked
        try:
            status = lifecycle.cancel(backend, run, max(0.0, deadline - time.monotonic()))
        except MlctlError as error:
            logger.error("%s: was asked to end; whether it has can't be seen: %s", run, error)
        else:
            logger.info("%s is %s", run, status.state.value if status else "stopping")


def _plans(flow_run: UUID) -> Iterator[dict[str, Any]]:
    """What every call of the flow run and its subflows planned, each key once."""
    seen: set[str] = set()
    with get_client(sync_client=True) as client:
        family = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=_family(client, flow_run)))
        wanted = {"artifacts": family.model_dump(mode="json", exclude_unset=True), "sort": "ID_DESC"}

        def read(**page: int) -> Any:
            # Not by read_artifacts: that must be given a filter of task runs, and then the server leaves out what a flow made
            # outside of tasks, or in one that it has not heard of yet.
            return client.request("POST", "/artifacts/filter", json=wanted | page).json()

        for artifact in _all(read):
            if artifact["description"] == PLAN and isinstance(artifact["data"], str):
                shown = read_plan(artifact["data"])
                if shown["key"] not in seen:
                    seen.add(shown["key"])
                    yield shown


def _family(client: SyncPrefectClient, flow_run: UUID) -> list[UUID]:
    """The flow run and the subflows in its process; a deployment's run has a process, and hooks, of its own."""
    family = level = [flow_run]
    while level:
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=level))
        found = _all(client.read_flow_runs, flow_run_filter=below, sort=FlowRunSort.ID_DESC)
        level = [one.id for one in found if not one.deployment_id]
        family = family + level
    return family


def _all(read: Callable[..., Any], **asked: Any) -> Iterator[Any]:
    """What `read` answers, page by page."""
    offset = 0
    while page := read(**asked, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)
