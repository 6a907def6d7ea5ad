"""One call of a job from a flow: what was asked for, and the key that the flow's place gives it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import BaseModel, Field

from mlctl import api, lifecycle
from mlctl.errors import InvalidJob, one_line

from .results import addresses

__all__ = ["Call", "again", "asynchronous", "next_key"]


class Call(BaseModel):
    """What to run and where. All but `key` is part of what Prefect's cache policies see of a task's inputs."""

    job: str | Path | dict[str, Any]
    """The job's file, or what it would hold."""
    kind: str = ""
    """The kind that the job must have; any where empty."""
    params: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    target: str | None = None
    profile: str | None = None
    config: str | Path | None = None
    on_change: str = "fail"
    key: str = Field(default="", exclude=True)

    def execution(
        self, params: Mapping[str, Any] | None, inputs: Mapping[str, Any] | None, key: str, retry: bool
    ) -> lifecycle.Execution:
        """This call, with what one run adds to it. Raises InvalidJob, InvalidConfig."""
        for name, given in ("params", params), ("inputs", inputs), ("params", self.params), ("inputs", self.inputs):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidJob(f"{name}: got {one_line(given)}, expected a mapping")
        job = api.load(
            self.job, {**(self.params or {}), **(params or {})}, addresses({**(self.inputs or {}), **(inputs or {})})
        )
        if self.kind and job.kind.name != self.kind:
            raise job.fail(("kind",), f"got {job.kind.name}, expected {self.kind}, or call mlctl_task, which takes any")
        return api.execution(
            job,
            target=self.target,
            profile=self.profile,
            config=self.config,
            key=key or None,
            retry=retry,
            on_change=self.on_change,
        )

    @property
    def name(self) -> str:
        """What to call it, without reading the job: a task is made where its file needs not be yet."""
        return str(self.job.get("name", "mlctl")) if isinstance(self.job, dict) else Path(self.job).stem


_counts: dict[int, Counter[str]] = {}  # a flow's or a task's context, which is a new object at each try -> calls so far
_lock = threading.Lock()


def next_key(name: str) -> str:
    """The key of this call: the flow run, `name`, and how often it was called there before.

    A subflow is known by its place in the flow that calls it, which stays where Prefect starts it anew. Called from
    within another task, that task's run stands for the flow run: its key holds over the task's retries. Empty outside
    of both: each call is a new run.
    """
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task:
        place = task.task_run.id
    elif flow and flow.flow_run:
        run = flow.flow_run
        place = run.id if run.deployment_id or not run.parent_task_run_id else run.parent_task_run_id
    else:
        return ""
    context = task or flow
    with _lock:
        if id(context) not in _counts:
            _counts[id(context)] = Counter()
            weakref.finalize(context, _counts.pop, id(context), None)
        number = _counts[id(context)][name]
        _counts[id(context)][name] += 1
    return f"prefect/{place}/{name}/{number}"


def again(key: str | None) -> bool:
    """Whether a job that ended badly under the key is tried again: at a later try of the task or of its flow run.

    So it is at each under a key that `next_key` made, where none came before: there is nothing at the first.
    """
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    later = (task and task.task_run.run_count > 1) or (flow and flow.flow_run and flow.flow_run.run_count > 1)
    return bool(not key or later)


def asynchronous() -> bool:
    """Whether the caller awaits what it calls: it runs on an event loop, and in no flow or task that is a plain function."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    around = task.task if task else flow.flow if flow else None
    return around is None or around.isasync
