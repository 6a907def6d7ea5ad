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
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink

from mlctl.kinds import KINDS

from . import identity, jobs
from .moved import AirflowException, AirflowFailException, AirflowTaskTimeout, XComNotFound, conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlctl.backend import Backend
    from mlctl.job import Job
    from mlctl.lifecycle import Execution, Outcome
    from mlctl.runs import Run, Status

    from .drive import Drive

_BEFORE_KILL = 4.0  # seconds to end a run in: Airflow kills a task's process 5 seconds after its SIGTERM
_PATIENCE = 30.0  # seconds, where nothing kills


class RunLink(BaseOperatorLink):
    """The platform's own page of the run."""

    name = "Platform"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """The address; empty before there is a run, and where the platform has no pages."""
        return str(getattr(operator, "link", ""))


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
        if log_interval is not None and not log_interval > 0:
            raise ValueError(f"log_interval: got {log_interval!r}, expected seconds above 0, or None")
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
        self._conn_id: str | None = None  # of the target in use
        self._terminated = False  # SIGTERM came

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
        with _answering():
            execution = self._made(context)
            identity.keep_target(context, execution.key.text, execution.settings.target)
            deadline = time.time() + self.execution_timeout.total_seconds() if self.execution_timeout else None
            return self._followed(context, execution, deadline)

    def resume(self, context: Context, event: Mapping[str, Any]) -> Any:
        """After a deferral; `event` is RunTrigger's. The job is looked at only where its run didn't succeed."""
        from mlctl import lifecycle, masking, watch
        from mlctl.lifecycle import Outcome
        from mlctl.runs import Run, State

        from .deferral import Deferral

        with _answering():
            deferral = Deferral(**event["deferral"])
            run, backend = Run.parse(deferral.run), deferral.reach()
            if event["late"]:
                with self._telling():
                    lifecycle.cancel(backend, run, _PATIENCE)
                raise AirflowTaskTimeout(f"{run.name}: execution_timeout is over")
            status = watch.until_done(backend, run, 0, unseen=lifecycle.UNSEEN)
            if status and status.state is State.SUCCEEDED:
                masked = masking.mask(deferral.secrets, deferral.settings)  # `dag.test()` masks nothing of Airflow's
                with self._telling():
                    for logs in lifecycle.lines(backend, run, event["cursor"]):
                        for line in logs.lines:
                            self.log.info("%s", masked(line))
                return self._finish(context, backend, run, status)
            if not status:  # the run goes on, or is out of reach just now: it isn't handed to and fro
                error = event["error"]
                why = f"the triggerer can't watch it: {error}" if error else "its end can't be seen from here yet"
                self.log.warning("this worker waits: %s", why)
                self.deferrable = False
            execution = self._made(context, deferral.target)
            execution.again, execution.on_change = False, "adopt"  # this try's own run, whatever the job file says now
            found = Outcome(run, deferral.made)
            return self._followed(context, execution, deferral.deadline, found=found, cursor=event["cursor"])

    def on_kill(self) -> None:
        """SIGTERM, wherever the task is: noted, for who waits to see (and for nobody, where nobody does)."""
        self._terminated = True

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
        values = {} if self.key else identity.values_of(context)  # whoever asks under that key, it is the same run
        execution = api.execution(
            job,
            key=key,
            retry=context["ti"].try_number > 1,
            on_change=self.on_change,
            values=values,
            accepts=identity.accepts(values),
            config=known,
        )
        self._conn_id = known.values["targets"][execution.settings.target].get("conn_id")  # no platform's business
        jobs.lend(self._conn_id, execution.settings)
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

    def _followed(self, context: Context, execution: Execution, deadline: float | None, **found: Any) -> Any:
        """Waits for the end of the run, here or deferred, and answers with it. `found` are options of mlctl's Drive."""
        from mlctl.runs import State

        from .deferral import Deferral
        from .drive import Drive

        drive = Drive(execution, self.log, patience=0 if self.deferrable else None, **found)
        outcome = self._waited(context, drive)
        if outcome.status is None:
            identity.keep_run(context, str(outcome.run))
            raise Deferral.of(execution, outcome, self._conn_id, deadline).begin(self.log_interval, drive.cursor)
        if outcome.status.state is not State.SUCCEEDED:
            raise drive.failed(outcome)
        return self._finish(context, execution.backend, outcome.run, outcome.status)

    def _waited(self, context: Context, drive: Drive) -> Outcome:
        """What came of the run; without a status where it is to be deferred. Ends it where Airflow ends this try."""
        from mlctl.runs import State

        try:
            outcome = drive.until(lambda: self._terminated, lambda: self._show_link(context, drive.link))
            self._show_link(context, drive.link)
            if outcome and (outcome.status or self._wanted(context)):
                return outcome
            if self.on_worker_stop == "leave" and self._wanted(context):
                run = drive.outcome.run if drive.outcome else "its run"
                raise AirflowException(f"this worker stops; {run} goes on, and the next try finds it")
            outcome = drive.end(_BEFORE_KILL)
        except Exception:
            raise
        except BaseException:  # `execution_timeout`; Ctrl-C in a `dag.test()`
            drive.end(_PATIENCE)
            raise
        if outcome and outcome.status and outcome.status.state is State.SUCCEEDED:
            return outcome  # before it could be ended
        raise AirflowException(f"this task was stopped{f', and {outcome.run} ended' if outcome else ''}")

    def _wanted(self, context: Context) -> bool:
        """Whether Airflow still wants this try. Where it can't be asked, nobody said no."""
        with suppress(Exception):
            return identity.wanted(context)
        return True

    def _show_link(self, context: Context, link: str) -> None:
        """Has Airflow's page of the task lead to the run's while it runs; at the end Airflow sees to that itself."""
        if link != self.link:
            self.link = link
            with self._telling():
                context["ti"].xcom_push(RunLink().xcom_key, link)

    def _finish(self, context: Context, backend: Backend, run: Run, status: Status) -> Any:
        """Leaves the XComs; what the task returns."""
        self.link = status.link
        result = backend.result(run)
        if self.do_xcom_push:
            for name, address in result.outputs.items():
                context["ti"].xcom_push(name, address)
        metrics = {
            name: value if math.isfinite(value) else None for name, value in result.metrics.items()
        }  # JSON has no NaN
        return {"run": str(run), "outputs": dict(result.outputs), "metrics": metrics}

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong here is told, and ends nothing."""
        try:
            yield
        except Exception as reason:
            self.log.warning("%s", reason)


@contextmanager
def _answering() -> Iterator[None]:
    """Answers Airflow in its own words: what to retry, and what not."""
    from mlctl.errors import MlctlError, RunFailed, Unavailable

    try:
        yield
    except (RunFailed, Unavailable) as reason:
        raise AirflowException(str(reason)) from None
    except MlctlError as reason:
        raise AirflowFailException(str(reason)) from None


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
