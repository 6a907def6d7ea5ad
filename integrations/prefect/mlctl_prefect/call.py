"""One call of a job from a flow: what was asked for, and the key that the flow's place gives it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import Token
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import BaseModel, Field

from mlctl import api, lifecycle
from mlctl.errors import InvalidJob, one_line

from .results import addresses

__all__ = ["Call", "asynchronous", "later", "next_key"]


class Call(BaseModel):
    """What to run and where. All but `key` and `later` is part of what Prefect's cache policies see of a task's inputs."""

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
    later: bool = Field(default=False, exclude=True)
    """Whether it is made at a later try of what calls it."""

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


def later() -> bool:
    """Whether this is a later try: of the task or the flow around it, or of any that those are called in.

    A job that ended badly under the user's own key is tried again at a later try only. So it is at each under a key that
    `next_key` made, where none came before: there is nothing at the first.
    """
    return any(context.task_run.run_count > 1 for context in _around(TaskRunContext)) or any(
        context.flow_run and context.flow_run.run_count > 1 for context in _around(FlowRunContext)
    )


def _around(kind: Any) -> Iterator[Any]:
    """The contexts of that kind, the innermost first. Prefect has no other way to the ones outside: the run of a subflow, or
    of a task within a task, counts its own tries only."""
    context = kind.get()
    while context:
        yield context
        token = getattr(context, "_token", None)
        context = token.old_value if token and token.old_value is not Token.MISSING else None


def asynchronous() -> bool:
    """Whether the caller awaits what it calls: it runs on an event loop, and in no flow or task that is a plain function."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    subflow = task and flow and flow.flow_run and task.task_run.flow_run_id != flow.flow_run.id  # called by the task
    around = task.task if task and not subflow else flow.flow if flow else None
    return around is None or around.isasync
