"""One call of a job from a flow: what was asked for, and the key that the flow's place gives it."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import BaseModel, Field

from mlctl import api, lifecycle

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
        job = api.load(self.job, {**self.params, **(params or {})}, addresses({**self.inputs, **(inputs or {})}))
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

    Called from within another task, that task's run stands for the flow run: its key holds over the task's retries.
    Empty outside of both: each call is a new run.
    """
    context: TaskRunContext | FlowRunContext | None = TaskRunContext.get() or FlowRunContext.get()
    run = getattr(context, "task_run", None) or getattr(context, "flow_run", None)
    if context is None or run is None:
        return ""
    with _lock:
        if id(context) not in _counts:
            _counts[id(context)] = Counter()
            weakref.finalize(context, _counts.pop, id(context), None)
        number = _counts[id(context)][name]
        _counts[id(context)][name] += 1
    return f"prefect/{run.id}/{name}/{number}"


def again() -> bool:
    """Whether this is a later try, of the task or of its flow run: then a job that ended badly is tried again."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    return bool((task and task.task_run.run_count > 1) or (flow and flow.flow_run and flow.flow_run.run_count > 1))


def asynchronous() -> bool:
    """Whether the caller awaits what it calls: it is an async flow or task, or runs on an event loop outside of both."""
    import asyncio

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task or flow:
        return bool(task.task.isasync if task else flow and flow.flow and flow.flow.isasync)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
