"""A job as a Prefect task."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from prefect import Task, unmapped
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.utilities.annotations import BaseAnnotation
from prefect.utilities.collections import isiterable
from prefect.utilities.engine import resolve_inputs_sync

from mlctl.errors import InvalidJob, MlctlError, RunFailed, Unavailable
from mlctl.job import Kind

from .call import Call, asynchronous, later, next_key
from .drive import Drive
from .results import MlctlResult

__all__ = ["MlctlTask", "factory", "mlctl_task"]


def _drive(params: Any, inputs: Any, key: str | None, call: Call | None) -> Drive:
    context = TaskRunContext.get()
    if context is None:
        raise InvalidJob("this runs in Prefect: call the task, not its fn")
    asked = call or cast(MlctlTask, context.task).call
    known = key or asked.key or f"prefect/{context.task_run.id}"
    retry = not key or asked.later or context.task_run.run_count > 1
    return Drive(lambda: asked.execution(params, inputs, known, retry), get_run_logger())


def _run(params: Any = None, inputs: Any = None, key: str | None = None, call: Call | None = None) -> MlctlResult:
    return _drive(params, inputs, key, call).result()


async def _run_async(
    params: Any = None, inputs: Any = None, key: str | None = None, call: Call | None = None
) -> MlctlResult:
    return await _drive(params, inputs, key, call).result_async()


async def _awaited(result: Any) -> Any:
    try:
        return await result
    except MlctlError as error:  # its frames are Prefect's engine, and the flow's log shows them all
        raise error.with_traceback(None) from None


class MlctlTask(Task[Any, MlctlResult]):
    """A Prefect task that runs a job and returns its MlctlResult. `mlctl_task` makes it, with Prefect's own options.

    Called in an async flow it returns what to await; `submit`, `map`, `with_options` and the rest are Prefect's.
    `params` and `inputs` are added to the task's own; an input is an address, another job's result where that has one
    output, or `output(future, NAME)`. `key` overrides the key: the same key for the same job is the same run.

    Raises RunFailed, which obeys the task's `retries`, as Unavailable does; InvalidJob, InvalidConfig, Denied,
    Unauthorized and RunNotFound fail the task at once.
    """

    def __init__(self, call: Call, **options: Any) -> None:
        options = {"name": call.name, "description": f"mlctl job {call.name}", **options}
        super().__init__(_run, **{**options, "retry_condition_fn": _worth(options.get("retry_condition_fn"))})
        self.call = call
        asked = call.model_dump_json()
        self.source_code = asked  # for the cache policy TASK_SOURCE: all jobs have one function
        self.task_key = f"mlctl-{self.name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"

    def _as(self, made: Task[Any, Any], **changes: Any) -> MlctlTask:
        """This task with the attributes of another, and some more."""
        task = copy.copy(self)
        vars(task).update(vars(made) | changes)
        return task

    def with_options(self, **options: Any) -> MlctlTask:
        """A copy with other options, of Prefect's or of mlctl_task's (params, inputs, target, profile, config,
        on_change). A `key` is of one call."""
        known = [name for name, field in Call.model_fields.items() if not field.exclude]
        mine = {name: options.pop(name) for name in known if name in options}
        given = options.pop("retry_condition_fn", None)
        if given:
            options["retry_condition_fn"] = _worth(given)
        made = super().with_options(**options)
        call = self.call.model_copy(update=mine)
        return self._as(made, call=call, task_key=self.task_key, source_code=call.model_dump_json())

    def _called(self) -> Call:
        """Counted here, where the flow calls: Prefect may answer from its cache, and the task's function not run."""
        return self.call.model_copy(update={"key": next_key(self.name), "later": later()})

    def __call__(  # type: ignore[override]
        self,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        return_state: bool = False,
        wait_for: Any = None,
    ) -> Any:
        """The job's result; in an async flow, what to await for it."""
        given = params, inputs, key, self._called()
        options: Any = {"return_state": return_state, "wait_for": wait_for}
        if asynchronous():
            task = self._as(self, fn=_run_async, isasync=True)
            return _awaited(super(MlctlTask, task).__call__(*given, **options))
        try:
            return super().__call__(*given, **options)
        except MlctlError as error:
            raise error.with_traceback(None) from None

    def submit(  # type: ignore[override]
        self,
        params: Any = None,
        inputs: Any = None,
        key: Any = None,
        *,
        return_state: bool = False,
        wait_for: Any = None,
    ) -> Any:
        """A future of the job's result; the flow goes on."""
        return super().submit(params, inputs, key, self._called(), return_state=return_state, wait_for=wait_for)

    def map(  # type: ignore[override]
        self,
        params: Any = None,
        inputs: Any = None,
        key: Any = None,
        *,
        return_state: bool = False,
        wait_for: Any = None,
        deferred: bool = False,
    ) -> Any:
        """A job for each element of what has some, or is a future of that; a mapping is the same for all."""
        asked = {"params": params, "inputs": inputs, "key": key}
        mapped = {name: _mapped(one) for name, one in asked.items() if one is not None}
        count = next((count for _, count in mapped.values() if count is not None), None)
        given: dict[str, Any] = {name: one for name, (one, _) in mapped.items()}
        given["call"] = unmapped(self.call) if count is None else [self._called() for _ in range(count)]
        return super().map(**given, return_state=return_state, wait_for=wait_for, deferred=deferred)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """For a task worker, as `delay` is: it runs this very call, whatever its own copy of the task was made of."""
        given = dict(kwargs or {})
        if "call" not in given:  # `map` gave it
            given["call"] = self._called()
        return super().apply_async(args, given, **options)


def _mapped(value: Any) -> tuple[Any, int | None]:
    """`value` as Prefect's `map` is to have it, and how many elements that makes of it; None where it is the same for all."""
    if isinstance(value, Iterator):  # can be gone through once only
        value = list(value)
    found = resolve_inputs_sync({"": value}, max_depth=0)[""]  # of a future or a state, what it holds: as `map` does
    if isinstance(found, Mapping):
        return unmapped(value), None
    if isinstance(found, BaseAnnotation) and not isinstance(found, unmapped):
        found = found.unwrap()
    return value, None if isinstance(found, unmapped) or not isiterable(found) else len(list(found))


def _worth(given: Callable[..., Any] | None) -> Callable[..., Any]:
    """A retry_condition_fn: what no retry can mend is not tried again; the rest is for `given` to say, if anybody."""
    if getattr(given, "mlctl", False):
        return cast("Callable[..., Any]", given)

    async def condition_async(task: Any, run: Any, state: Any) -> bool:
        return not _final(state) and bool(await cast(Any, given)(task, run, state))

    def condition(task: Any, run: Any, state: Any) -> bool:
        return not _final(state) and (given is None or bool(given(task, run, state)))

    made = condition_async if inspect.iscoroutinefunction(given) else condition
    cast(Any, made).mlctl = True
    return made


def _final(state: Any) -> bool:
    return isinstance(state.data, MlctlError) and not isinstance(state.data, (RunFailed, Unavailable))


def mlctl_task(
    job: str | Path | Mapping[str, Any],
    *,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    target: str | None = None,
    profile: str | None = None,
    config: str | Path | None = None,
    on_change: str = "fail",
    kind: str = "",
    **options: Any,
) -> MlctlTask:
    """A task that runs `job`: its file, or what that would hold. `options` are those of Prefect's `task`.

    `params` and `inputs` hold for each call; `target`, `profile`, `config` and `on_change` are as of `mlctl.run`. Nothing
    is read before the task runs. The task is called as the file is, without its ending, unless `name` says otherwise.
    """
    call = Call(
        job=dict(job) if isinstance(job, Mapping) else job,
        kind=kind,
        params=dict(params or {}),
        inputs=dict(inputs or {}),
        target=target,
        profile=profile,
        config=config,
        on_change=on_change,
    )
    return MlctlTask(call, **options)


def factory(kind: Kind) -> Callable[..., MlctlTask]:
    """`mlctl_task` for jobs of one kind; a job of another fails the task."""

    def make(job: str | Path | Mapping[str, Any], **options: Any) -> MlctlTask:
        return mlctl_task(job, kind=kind.name, **options)

    make.__name__ = make.__qualname__ = f"mlctl_{kind.name.replace('-', '_')}"
    make.__doc__ = f"A task for a job that {kind.summary}. Arguments as of `mlctl_task`."
    return make
