"""One operator for every kind of job, and its rows: `MlctlProcessOperator`, `MlctlTrainOperator`, ...

A try of a task is one call of mlctl's lifecycle, under a key that Airflow keeps over its automatic retries and changes
at a clear (identity.py): so a retry, or the try after a `kill -9`, finds the run that is there. While a DAG is parsed
no job file is read, and nothing of mlctl but the table of kinds is imported.
"""

from __future__ import annotations

import math
import os
import time
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferred,
    XComNotFound,
)

from mlctl.kinds import KINDS

from . import identity, jobs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlctl.backend import Backend
    from mlctl.config import Config
    from mlctl.job import Job
    from mlctl.lifecycle import Execution, Outcome
    from mlctl.runs import Run, Status

_CANCEL_SECONDS = 4.0  # Airflow kills a task's process 5 seconds after its SIGTERM


class RunLink(BaseOperatorLink):
    """The platform's own page of the run."""

    name = "Platform"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """The address; empty before there is a run, and where the platform has no pages."""
        return str(getattr(operator, "link", ""))


class _Terminated(BaseException):
    """SIGTERM came while a run was waited for. A BaseException: nothing on the way may take it for an error."""


class MlctlOperator(BaseOperator):
    """Runs a job on a platform, and waits for it.

    :param job: the path of a job file (templated; a relative one counts from the DAG file's folder); or what such a file
        holds, as a mapping, or a `mlctl.Job`: both are taken as they are, `${{...}}` and `{{...}}` alike.
    :param target: the target; else the configuration's profile chooses (templated).
    :param parameters: the job's parameters, by name: values, or their text (templated).
    :param inputs: addresses of the job's inputs, by name: `other.output["model"]`, a path or a URI (templated).
    :param key: the same key is the same run, whoever asks (templated); else one is made of what Airflow keeps over
        retries: see identity.py.
    :param config: the configuration's file; else the one that is found from the job file's folder upwards.
    :param profile: the configuration's profile (templated).
    :param mlctl_conn_id: a connection of type `mlctl`, for `config`, `profile` and `target` where they are left out.
    :param on_change: `fail`, `adopt` or `replace`, where a retry finds a run of another version of the job.
    :param on_worker_stop: `cancel` or `leave`: what becomes of the run where its worker gets SIGTERM. What a user does to
        the task (mark failed, clear), and `execution_timeout`, cancel it either way.
    :param deferrable: wait in the triggerer, without a worker; else as Airflow's `operators.default_deferrable` says.
    :param log_interval: seconds between two looks at the log while deferred; None: only at the end.

    XComs: each output's address under the output's name; `return_value` is a mapping of `run`, `outputs`, `metrics`.
    """

    template_fields: Sequence[str] = ("job", "target", "parameters", "inputs", "key", "profile")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json", "inputs": "json"}
    operator_extra_links = (RunLink(),)
    ui_color = "#dcebf7"
    kind: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        job: Any,
        target: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        key: str | None = None,
        config: str | None = None,
        profile: str | None = None,
        mlctl_conn_id: str | None = None,
        on_change: str = "fail",
        on_worker_stop: str = "cancel",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),  # once: it costs 0.2 ms
        log_interval: float | None = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_worker_stop not in ("cancel", "leave"):
            raise ValueError(f"on_worker_stop: got {on_worker_stop!r}, expected cancel or leave")
        # Airflow looks into a dict for templates, and ours has `${{...}}` of its own; a UserDict it leaves alone.
        self.job = UserDict(job) if isinstance(job, dict) else os.fspath(job) if isinstance(job, os.PathLike) else job
        self.target = target
        self.parameters = parameters
        self.inputs = inputs
        self.key = key
        self.config = config
        self.profile = profile
        self.mlctl_conn_id = mlctl_conn_id
        self.on_change = on_change
        self.on_worker_stop = on_worker_stop
        self.deferrable = deferrable
        self.log_interval = log_interval
        self.link = ""
        self._execution: Execution | None = None
        self._backend: Backend | None = None
        self._run: Run | None = None
        self._conn_id: str | None = None
        self._cursors: dict[Run, str] = {}
        self._terminated = False  # SIGTERM came
        self._interruptible = False  # it may end what is being done now: never between a submit and its answer
        self._parent = os.getpid()

    # What Airflow calls

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """As Airflow does it, but for an XCom that isn't there: that ends the task, for no retry would bring it."""
        try:
            return super().render_template(content, *args, **kwargs)
        except XComNotFound as missing:
            text = f"task '{missing.task_id}' left no output '{missing.key}': it was skipped, or its job declares none"
            raise AirflowFailException(text) from None

    def execute(self, context: Context) -> Any:
        """Starts the job, or finds its run, and waits. What it returns and leaves is said at the class."""
        with self._answering(context):
            self._interruptible = True
            execution = self._made(context)
            identity.keep_target(context, execution.key.text, execution.settings.target)
            execution.prepare()
            self._interruptible = False
            outcome = execution.start()
            self.log.info("%s %s", "submitted" if outcome.made else "found", outcome.run)
            return self._follow(context, execution, outcome, self._deadline())

    def resume(self, context: Context, event: Mapping[str, Any], **state: Any) -> Any:
        """After a deferral; `state` is what `_deferred` kept. The job is looked at only where its run didn't succeed."""
        from mlctl import watch
        from mlctl.backend import Settings, load
        from mlctl.lifecycle import Outcome
        from mlctl.runs import Run, State

        with self._answering(context):
            self._run = run = Run.parse(state["run"])
            self._lend(state["conn_id"])
            jobs.mask(state["secrets"], state["settings"])
            self._backend = load(run.backend, Settings(state["target"], state["settings"], Path(state["home"])))
            self._cursors[run] = event["cursor"]
            if event["late"]:
                raise AirflowTaskTimeout(f"{run.name}: execution_timeout is over")
            self._interruptible = True
            status = watch.until_done(self._backend, run, 0)
            if status and status.state is State.SUCCEEDED:
                return self._finish(context, run, status)
            if event["error"] and not status:
                raise AirflowFailException(f"the triggerer can't watch it: {event['error']}")
            execution = self._made(context, state["target"])
            execution.again, execution.on_change = False, "adopt"  # this try's own run, whatever the job file says now
            return self._follow(context, execution, Outcome(run, state["made"]), state["deadline"])

    def on_kill(self) -> None:
        """SIGTERM, or the end of `execution_timeout`: stops what waits; `_answering` does what is to be done."""
        self._terminated = True
        if self._execution and self.on_worker_stop == "cancel":
            self._execution.stop()
        if self._interruptible:
            self._interruptible = False
            raise _Terminated

    # One try

    def _made(self, context: Context, target: str | None = None) -> Execution:
        """This try's execution. `target` is given where the try has chosen it already."""
        from mlctl import api, config

        folder = Path(context["dag"].folder)
        given = self._connection()
        job = self._job(folder)
        key = self.key or identity.key_of(context)
        chosen = target or identity.first_target(context, key) or self.target or given.get("target")
        file = self.config or given.get("config")
        near = Path(job.document.source) if isinstance(self.job, str) else folder / "job"
        known = config.load(near, jobs.at(folder, file) if file else None, self.profile or given.get("profile"), chosen)
        known, connections = _without_connections(known)
        values = identity.values_of(context)
        self._execution = execution = api.execution(
            job,
            key=key,
            retry=context["ti"].try_number > 1,
            on_change=self.on_change,
            values=values,
            accepts=identity.accepts(values),
            config=known,
        )
        self._backend = execution.backend
        self._lend(connections.get(execution.settings.target))
        jobs.mask(job.secrets, execution.settings.values)
        return execution

    def _connection(self) -> dict[str, str]:
        if self.mlctl_conn_id is None:
            return {}
        from .connections import MlctlHook

        return MlctlHook(self.mlctl_conn_id).get_conn()

    def _job(self, folder: Path) -> Job:
        """The job with this task's parameters and inputs. Relative paths count from `folder`."""
        from mlctl import api
        from mlctl.errors import InvalidJob, one_line

        for name in ("parameters", "inputs"):
            if not isinstance(getattr(self, name) or {}, Mapping):
                raise InvalidJob(f"{name}: got {one_line(getattr(self, name))}, expected a mapping of names to values")
        inputs = {name: jobs.at(folder, value) for name, value in (self.inputs or {}).items()}
        source = jobs.at(folder, self.job) if isinstance(self.job, str) else self.job
        job = api.load(jobs.rooted(source, folder) if isinstance(source, Mapping) else source, self.parameters, inputs)
        if self.kind not in (None, job.kind.name):
            text = f"got {job.kind.name}, and this task runs {self.kind}; use {_operator(job.kind.name)}"
            raise job.fail(("kind",), text)
        if "return_value" in job.outputs:
            raise job.fail(("outputs", "return_value"), "is the name of an XCom of Airflow's own; rename it")
        return job

    def _follow(self, context: Context, execution: Execution, outcome: Outcome, deadline: float | None) -> Any:
        """Waits for the end, here or deferred, and answers with it."""
        from mlctl.errors import RunFailed
        from mlctl.runs import State

        self._run = outcome.run
        self._interruptible = True
        if self._terminated:
            raise _Terminated
        outcome = execution.wait(outcome, 0 if self.deferrable else None, self._see)
        self._interruptible = False
        self._run, status = outcome.run, outcome.status
        if status is None:
            raise self._deferred(execution, outcome, deadline)
        if status.state is State.SUCCEEDED:
            return self._finish(context, outcome.run, status)
        self._show(outcome.run)
        raise RunFailed(outcome.run, status)

    def _see(self, run: Run, status: Status) -> None:
        """Every status on the way. Once the run has ended, the next attempt may be submitted: no interruption then."""
        self._run, self.link = run, status.link
        self._show(run)
        if self._execution and os.getppid() != self._parent:  # our supervisor was killed; another try owns the run now
            self._execution.stop()
        self._interruptible = not status.state.terminal
        if self._interruptible and self._terminated:
            raise _Terminated

    def _deferred(self, execution: Execution, outcome: Outcome, deadline: float | None) -> TaskDeferred:
        """What hands the wait to a triggerer."""
        from .triggers import RunTrigger

        at, run = execution.settings, str(outcome.run)
        where: dict[str, Any] = {
            "run": run,
            "target": at.target,
            "settings": dict(at.values),
            "home": str(at.home),
            "conn_id": self._conn_id,
            "deadline": deadline,
        }
        # The triggerer can't mask secrets that it doesn't know: such a job's log is shown by the worker, at the end.
        interval = None if execution.job.secrets else self.log_interval
        trigger = RunTrigger(**where, log_interval=interval, cursor=self._cursors.get(outcome.run, ""))
        return TaskDeferred(
            trigger=trigger,
            method_name="resume",
            kwargs={**where, "made": outcome.made, "secrets": list(execution.job.secrets)},
        )

    def _finish(self, context: Context, run: Run, status: Status) -> dict[str, Any]:
        """The rest of the log, the XComs, and what the task returns."""
        assert self._backend is not None  # noqa: S101 - there is no run without one
        self._interruptible = False
        self.link = status.link
        self._show(run)
        result = self._backend.result(run)
        if self.do_xcom_push:
            for name, address in result.outputs.items():
                context["ti"].xcom_push(name, address)
        metrics = {
            name: value if math.isfinite(value) else None for name, value in result.metrics.items()
        }  # JSON has no NaN
        return {"run": str(run), "outputs": dict(result.outputs), "metrics": metrics}

    def _show(self, run: Run) -> None:
        """The log's new lines, into the task's log. One that can't be read now is read the next time."""
        from mlctl import lifecycle
        from mlctl.errors import Unavailable

        assert self._backend is not None  # noqa: S101
        try:
            for logs in lifecycle.lines(self._backend, run, self._cursors.get(run, "")):
                for line in logs.lines:
                    self.log.info("%s", line)
                self._cursors[run] = logs.cursor
        except Unavailable as reason:
            self.log.warning("%s", reason)

    def _deadline(self) -> float | None:
        return time.time() + self.execution_timeout.total_seconds() if self.execution_timeout else None

    def _lend(self, conn_id: str | None) -> None:
        """Gives this process the credentials of the connection that the target names."""
        self._conn_id = conn_id
        if conn_id:
            from . import connections

            connections.lend(connections.get(conn_id))

    # How it ends

    @contextmanager
    def _answering(self, context: Context) -> Iterator[None]:
        """Answers Airflow in its own words: what to retry, what not, what to do about the run."""
        from mlctl.errors import MlctlError, RunFailed, Unavailable

        self._parent = os.getppid()
        try:
            yield
        except _Terminated:
            raise AirflowException(self._stopped(context)) from None
        except AirflowTaskTimeout:
            self._interruptible = False
            self._cancel()
            raise
        except (RunFailed, Unavailable) as reason:
            raise AirflowException(str(reason)) from None
        except MlctlError as reason:
            raise AirflowFailException(str(reason)) from None
        finally:
            self._interruptible = False

    def _stopped(self, context: Context) -> str:
        """What SIGTERM means for the run: the user's act ends it; a worker's stop as `on_worker_stop` says."""
        if self.on_worker_stop == "leave":
            asked = True
            with suppress(Exception):  # Airflow can't be asked: the run is not ours to end
                asked = identity.wanted(context)
            if asked:
                return f"this worker stops; {self._run or 'the run'} goes on, and the next try finds it"
        self._cancel()
        return f"{self._run or 'the run'}: cancelled, for its task was stopped"

    def _cancel(self) -> None:
        """Asks for the end of what runs under this try's key. Where that fails, says so: there is no other moment."""
        from mlctl import lifecycle
        from mlctl.errors import MlctlError

        if self._backend is None:
            return
        runs = [self._run] if self._run else []
        try:
            if not runs and self._execution:  # stopped on its way to the platform
                runs = [one.run for one in self._backend.find(self._execution.key) if not one.status.state.terminal]
            for run in runs:
                lifecycle.cancel(self._backend, run, _CANCEL_SECONDS)
        except MlctlError as reason:
            self.log.error("the run may go on: %s", reason)


def _without_connections(known: Config) -> tuple[Config, dict[str, str]]:
    """The configuration with its targets' `conn_id`, which is Airflow's and no platform's, taken out; and those."""
    targets = known.values["targets"]
    connections = {name: str(one["conn_id"]) for name, one in targets.items() if one.get("conn_id")}
    without = {name: {key: value for key, value in one.items() if key != "conn_id"} for name, one in targets.items()}
    return replace(known, values={**known.values, "targets": without}), connections


def _operator(kind: str) -> str:
    """`batch-inference` as `MlctlBatchInferenceOperator`."""
    return f"Mlctl{''.join(word.capitalize() for word in kind.split('-'))}Operator"


for _kind in KINDS.values():
    globals()[_operator(_kind.name)] = type(
        _operator(_kind.name),
        (MlctlOperator,),
        {"kind": _kind.name, "__module__": __name__, "__doc__": f"Runs a job that {_kind.summary}. See MlctlOperator."},
    )
__all__ = ["MlctlOperator", "RunLink", *map(_operator, KINDS)]
