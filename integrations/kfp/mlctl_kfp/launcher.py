"""What a component runs in its pod: the job of one step, started or found, watched to its end, and told to KFP.

The step's key is the pipeline's run, the task and the job's digest, so a step that KFP starts again under the same run
finds what an earlier try started. SIGTERM ends the job.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlctl import api, data
from mlctl.backend import Settings
from mlctl.drive import Drive
from mlctl.errors import Interrupted, InvalidConfig, InvalidJob, MlctlError
from mlctl.job import KINDS, Job
from mlctl.lifecycle import Execution, Outcome
from mlctl.runs import Result, Run, State

from . import executor, files
from .executor import ADDRESS, Call

__all__ = ["main"]

log = logging.getLogger("mlctl.kfp")

_BESIDE = frozenset({"local"})
"""Platforms whose jobs run where the step runs, and see its files."""
_PATIENCE = 25.0  # seconds to end a job in, of the 30 that Kubernetes gives a pod


def main(kind: str, executor_input: str) -> None:
    """One step. Raises what the command line turns into one line and an exit code."""
    step, early = Step(kind, executor_input), []
    signal.signal(signal.SIGTERM, lambda number, frame: early.append(number))  # noted, until there is what it is to end
    drive = Drive(step.execution, _say, see=step.see)
    try:
        try:
            signal.signal(signal.SIGTERM, _terminate)
            if early:
                _terminate(signal.SIGTERM, None)
            outcome = drive.wait()
        except _Signal:
            outcome = drive.stop(_PATIENCE)
        if not outcome.status or outcome.status.state is not State.SUCCEEDED:
            raise drive.failed(outcome)
        assert drive.execution  # noqa: S101 - what has an outcome was made
        step.report(outcome.run, drive.execution.backend.result(outcome.run))
    except _Signal:
        raise Interrupted(f"interrupted: {step.run} has ended, and a retry of this step tells KFP") from None


class _Signal(BaseException):
    """SIGTERM, in the main thread."""


def _terminate(number: int, frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # once is enough; SIG_IGN would be inherited by what is started next
    raise _Signal


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the job goes on
        print(line, flush=True)  # noqa: T201 - the step's log is the job's


class Step:
    """What KFP asked for, and what it is told of it."""

    def __init__(self, kind: str, executor_input: str) -> None:
        self.kind, self.text = kind, executor_input
        self.run: Run | None = None
        """The attempt in hand."""

    def execution(self) -> Execution:
        """The job on its way, under the step's key. Changes into the project's folder."""
        call = self.call = Call.of(self.text)
        for name in (KINDS[self.kind].output_type, "metrics"):
            if name not in call.outputs:
                raise InvalidConfig(
                    f"executor input: has no output '{name}'; load what `mlctl kfp components` of this launcher writes"
                )
        os.chdir(_project(call))
        path = call.text("job")
        if not path:
            raise InvalidConfig("job: is empty; name a job file of the project")
        job = api.load(path, call.mapping("params"), {name: str(uri) for name, uri in call.mapping("inputs").items()})
        if job.kind.name != self.kind:
            raise job.fail(
                ("kind",), f"is {job.kind.name}, and this component runs {self.kind} jobs; use {job.kind.name}.yaml"
            )
        self.output = _output(job, call.text("output"))
        options: dict[str, Any] = {name: call.text(name) or None for name in ("target", "profile", "config")}
        routed = api.execution(job, **options)
        self.target = routed.settings.target
        job = _fed(job, call, routed.backend.name in _BESIDE)
        # A failed run under this key was told to KFP by an earlier try of this very step: so this is its retry.
        return api.execution(job, key=_key(call, job, routed.settings), retry=True, **options)

    def see(self, outcome: Outcome) -> None:
        """Says so when another attempt comes in hand."""
        if outcome.run != self.run:
            self.run = outcome.run
            log.info("%s %s on %s", "started" if outcome.made else "found", outcome.run, self.target)

    def report(self, run: Run, result: Result) -> None:
        """Outputs and metrics, for KFP."""
        call, artifact = self.call, KINDS[self.kind].output_type
        metadata: dict[str, Mapping[str, Any]] = {"metrics": result.metrics}
        points = [json.dumps(vars(point)) for point in result.points]
        files.write(call.outputs["metrics"].path, "".join(f"{line}\n" for line in points).encode())
        if self.output:
            address = result.outputs.get(self.output, "")
            if not address:
                raise MlctlError(f"{run}: says nothing of its output '{self.output}'")
            metadata[artifact] = {"mlctl_run": str(run), "mlctl_output": self.output}
            if data.scheme(address) != "file":
                metadata[artifact] = {**metadata[artifact], ADDRESS: address}
            else:
                files.copy(Path(address), call.outputs[artifact].path)  # the pod's disk goes with the pod
        executor.answer(call, {"run": str(run), "outputs": dict(result.outputs)}, metadata)


def _project(call: Call) -> Path:
    given = call.inputs.get("project")
    if given is None:
        return Path.cwd()
    if given.path.is_dir():
        return given.path
    if not given.path.exists():
        raise InvalidConfig(f"project: {given.uri}: KFP fetched nothing to {given.path}; name what it can fetch")
    return files.unpacked(given.path)


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
