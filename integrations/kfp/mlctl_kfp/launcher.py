"""What a component runs in its pod: the job of one step, started or found, watched to its end, and told to KFP.

The step's key is the pipeline's run, the task and the job's digest, so a step that KFP starts again under the same run
finds what an earlier try started. SIGTERM ends the job. The lifecycle has a thread of its own, which no signal
interrupts: a submit that is under way finishes, and is then cancelled.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
import types
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any

from mlctl import api, lifecycle
from mlctl.backend import Settings
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunFailed, Unavailable
from mlctl.job import KINDS, Job
from mlctl.runs import Result, Run, State, Status

from . import executor, files
from .executor import ADDRESS, Call

__all__ = ["main"]

log = logging.getLogger("mlctl.kfp")

_BESIDE = frozenset({"local"})
"""Platforms whose jobs run where the step runs, and see its files."""
_PATIENCE = 25.0  # seconds to end a job in, of the 30 that Kubernetes gives a pod


class Terminated(MlctlError):
    """The step was asked to end, and ended its job."""

    exit_code = 130


def main(kind: str, executor_input: str) -> None:
    """One step. Raises what the command line turns into one line and an exit code."""
    step = None
    try:
        signal.signal(signal.SIGTERM, _terminate)
        call = Call.of(executor_input)
        os.chdir(_project(call))
        step = Step(call, kind)
        outcome = step.run()
        status = outcome.status
        if status is None or status.state is not State.SUCCEEDED:
            raise RunFailed(outcome.run, status or Status(State.CANCELLED))
        _report(call, step, outcome.run, step.execution.backend.result(outcome.run))
    except _Signal:
        ended = step and step.hand
        what = f"{ended.name} has ended, and a retry of this step tells KFP" if ended else "nothing was running"
        raise Terminated(f"interrupted: {what}") from None


class _Signal(BaseException):
    """SIGTERM, in the main thread."""


def _terminate(number: int, frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # once is enough; SIG_IGN would be inherited by what is started next
    raise _Signal


def _project(call: Call) -> Path:
    given = call.inputs.get("project")
    if given is None:
        return Path.cwd()
    if given.path.is_dir():
        return given.path
    return files.unpacked(given.path)


class Step:
    """A job on its way, with the step's key."""

    def __init__(self, call: Call, kind: str) -> None:
        path = call.text("job")
        if not path:
            raise InvalidConfig("job: is empty; name a job file of the project")
        job = api.load(path, call.mapping("params"), {name: str(uri) for name, uri in call.mapping("inputs").items()})
        if job.kind.name != kind:
            raise job.fail(
                ("kind",), f"is {job.kind.name}, and this component runs {kind} jobs; use {job.kind.name}.yaml"
            )
        self.output = _output(job, call.text("output"))
        options: dict[str, Any] = {name: call.text(name) or None for name in ("target", "profile", "config")}
        routed = api.execution(job, **options)
        job = _fed(job, call, routed.backend.name in _BESIDE)
        # A failed run under this key was told to KFP by an earlier try of this very step: so this is its retry.
        self.execution = api.execution(job, key=_key(call, job, routed.settings), retry=True, **options)
        self.hand: Run | None = None  # the attempt to cancel
        self.log = _Log(self.execution)

    def run(self) -> lifecycle.Outcome:
        """The outcome, terminal. Raises Terminated after SIGTERM, once the job has ended."""
        future: Future[lifecycle.Outcome] = Future()
        thread = threading.Thread(target=self._work, args=(future,), name="mlctl-step", daemon=True)
        try:
            thread.start()
            return future.result()
        except _Signal:
            self.execution.stop()
            if thread.ident is None:  # not even begun
                raise
        deadline = time.monotonic() + _PATIENCE
        if self.hand:
            lifecycle.cancel(self.execution.backend, self.hand, _PATIENCE)
        try:
            outcome = future.result(max(1.0, deadline - time.monotonic()))
        except TimeoutError:
            raise Unavailable(f"interrupted: {self.hand or 'the job'} was asked to end, and has not yet") from None
        if outcome.status and outcome.status.state is State.CANCELLED:
            raise Terminated(f"interrupted: {outcome.run.name} was cancelled")
        return outcome  # it ended by itself, before the cancel reached it

    def _work(self, future: Future[lifecycle.Outcome]) -> None:
        try:
            future.set_result(self._outcome())
        except BaseException as error:  # the main thread's to raise
            future.set_exception(error)

    def _outcome(self) -> lifecycle.Outcome:
        execution = self.execution
        execution.plan()  # refused, or interrupted, before anything is there to be cancelled
        if execution.stopped.is_set():
            raise Terminated("interrupted: nothing was running")
        outcome = execution.start()
        self.hand = outcome.run
        if execution.stopped.is_set():  # a run that was found is not yet cancelled by the start
            execution.backend.cancel(outcome.run)
        log.info("%s %s on %s", "started" if outcome.made else "found", outcome.run, execution.settings.target)
        outcome = execution.wait(outcome, each=self._seen)
        self._seen(outcome.run, outcome.status)
        return outcome

    def _seen(self, run: Run, status: Status | None) -> None:
        if run != self.hand:
            self.hand = run
            if self.execution.stopped.is_set():
                self.execution.backend.cancel(run)
        self.log(run)


def _key(call: Call, job: Job, settings: Settings) -> str:
    digest = job.snapshot(settings.home / "packages").digest(settings.target)
    names = [call.text("pipeline_job_id"), call.text("pipeline_task_name"), digest, call.text("key")]
    return "kfp/" + "/".join(name for name in names if name)


def _fed(job: Job, call: Call, here: bool) -> Job:
    """The job with the artifacts of earlier steps as its inputs. Raises InvalidJob."""
    inputs: dict[str, str] = {}
    for sort in ("dataset", "model"):
        given, name = call.inputs.get(f"input_{sort}"), call.text(f"input_{sort}_as")
        if given:
            name = name or _only(job, sort)
            if name in inputs or name in call.mapping("inputs"):
                raise InvalidJob(
                    f"input_{sort}: feeds the input '{name}', which something else feeds too; feed it once"
                )
            inputs[name] = given.address(here)
        elif name:
            raise InvalidJob(
                f"input_{sort}_as: got '{name}', and there is no input_{sort}; pass an earlier step's {sort}"
            )
    return api.load(job, inputs=inputs)


def _only(job: Job, sort: str) -> str:
    """The input that an artifact of that sort can only be meant for."""
    for wanted in (sort, "artifact"):
        names = [name for name, each in job.inputs.items() if each.type == wanted]
        if len(names) == 1:
            return names[0]
        if names:
            break
    found = ", ".join(job.inputs) or "none"
    raise job.fail(("inputs",), f"which one does input_{sort} feed? It has {found}; name it: input_{sort}_as")


def _output(job: Job, name: str) -> str:
    """The output that becomes KFP's artifact; empty where the job has none of that type."""
    if name:
        if name not in job.outputs:
            raise job.fail(("outputs",), f"output: got '{name}', expected one of {', '.join(job.outputs) or 'none'}")
        return name
    wanted = KINDS[job.kind.name].output_type
    names = [name for name, each in job.outputs.items() if each.type == wanted]
    if len(names) > 1:
        raise job.fail(("outputs",), f"which one becomes KFP's {wanted}? It has {', '.join(names)}; name it: output")
    return names[0] if names else ""


class _Log:
    """Prints what is new in the log of the attempt in hand, with what the job's secrets hold taken out."""

    def __init__(self, execution: lifecycle.Execution) -> None:
        self.backend = execution.backend
        self.secrets = sorted(set(_secrets(execution)), key=len, reverse=True)
        self.run: Run | None = None
        self.cursor = ""

    def __call__(self, run: Run) -> None:
        if run != self.run:
            self.run, self.cursor = run, ""
        try:
            for logs in lifecycle.lines(self.backend, run, self.cursor):
                with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the job goes on
                    for line in logs.lines:
                        print(self.masked(line), flush=True)  # noqa: T201 - the step's log is the job's
                self.cursor = logs.cursor
        except Unavailable as error:  # a log that can't be read now is no failed job
            log.warning("%s; trying again", error)

    def masked(self, line: str) -> str:
        """The line, without what the job's secrets hold."""
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line


def _secrets(execution: lifecycle.Execution) -> Iterable[str]:
    """Each line of each secret that this pod has in its environment, or in a file."""
    sources = execution.settings.values.get("secrets") or {}
    for name in execution.job.secrets:
        kind, _, where = str(sources.get(name, f"env:{name}")).partition(":")
        text = os.environ.get(where if kind == "env" else name, "")
        if kind == "file":
            try:
                text = Path(where).expanduser().read_text("utf-8")
            except (OSError, ValueError, RuntimeError):
                continue  # said by the platform, if it needs the secret
        yield from (line for line in text.splitlines() if line.strip())


def _report(call: Call, step: Step, run: Run, result: Result) -> None:
    """Outputs and metrics, for KFP."""
    metadata: dict[str, Mapping[str, Any]] = {"metrics": result.metrics}
    points = [json.dumps(vars(point)) for point in result.points]
    files.write(call.outputs["metrics"].path, "".join(f"{line}\n" for line in points).encode())
    artifact = step.execution.job.kind.output_type
    if step.output:
        address = result.outputs.get(step.output, "")
        if not address:
            raise MlctlError(f"{run}: says nothing of its output '{step.output}'")
        metadata[artifact] = {"mlctl_run": str(run), "mlctl_output": step.output}
        if "://" in address:
            metadata[artifact] = {**metadata[artifact], ADDRESS: address}
        else:
            files.copy(Path(address), call.outputs[artifact].path)  # the pod's disk goes with the pod
    executor.answer(call, {"run": str(run), "outputs": dict(result.outputs)}, metadata)
