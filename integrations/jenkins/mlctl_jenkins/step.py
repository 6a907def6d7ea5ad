"""One call of a step of the shared library: a job started or found, followed, and told as JSON.

$MLCTL_STEP holds {"call": ..., "options": ...}. `options` is what the Jenkinsfile says; `call` is what the library
knows: `folder` (of this call alone, and outside the workspace, which jobs may ship), `key`, `retry`, `bound` (the
target's credentials are in the environment), `cancel` (end what runs, instead).
The answer is `folder`/answer.json, whole or not there at all: `verdict`, and `error`, `needs` (credentials to bind, and
then ask again), `result` (for the Jenkinsfile) and `name` where there are such; beside it stands what is to be archived.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click

from mlctl import api, lifecycle, masking
from mlctl import config as configuration
from mlctl.config import Config
from mlctl.drive import Drive
from mlctl.errors import Interrupted, InvalidConfig, MlctlError, RunNotFound, did_you_mean, one_line
from mlctl.job import KINDS
from mlctl.lifecycle import Execution, Outcome
from mlctl.runs import Reason, Run, State, Status

from . import library, report
from .credentials import bindings, secrets

__all__ = ["VARIABLE", "main"]

VARIABLE = "MLCTL_STEP"
OPTIONS = ("job", "params", "inputs", "target", "profile", "config", "key", "retry", "onChange", "outputs", "unstable")
_TYPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    *((name, (str,), "a text") for name in ("target", "profile", "config", "onChange", "kind")),
    ("key", (str, int), "a text"),
    ("retry", (bool,), "true or false"),  # 'false', as a build's parameter has it, is true to Groovy and to Python
)
SMALL = 64 << 20  # bytes of outputs that are archived without being named: artifacts are kept on the controller
_TAIL = 200  # lines of the log in the reports
_PATIENCE = 15.0  # seconds to see the end of a job after an abort; Jenkins waits 20 for us, and asks then with `cancel`


def main() -> int:
    """Runs the call; its exit code, which is never 0 after a SIGTERM: Jenkins would take that for a success, and go on.

    Raises InvalidConfig where nobody called.
    """
    call, options = _request()
    ends: SimpleQueue[bool] = SimpleQueue()  # the one thing that a signal handler may safely talk to
    signal.signal(signal.SIGTERM, lambda number, frame: ends.put(True))
    folder = Path(call["folder"])
    folder.mkdir(parents=True)
    try:
        answer = _Step(call, options, folder, ends).run()
    except MlctlError as error:
        answer = {"code": error.exit_code, "verdict": "FAILURE", "error": str(error)}
    code = int(answer.pop("code", 0))
    draft = folder / "answer.new"
    draft.write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")
    draft.rename(folder / "answer.json")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return code if ends.empty() else code or Interrupted.exit_code


def _request() -> tuple[dict[str, Any], dict[str, Any]]:
    text = os.environ.pop(VARIABLE, "")  # no job's business
    try:
        data = json.loads(text)
        return data["call"], data["options"]
    except (ValueError, TypeError, KeyError):
        raise InvalidConfig(
            f"{VARIABLE}: got {one_line(text)}, expected what the shared library's steps put there; for a shell there is mlctl run"
        ) from None


@dataclass
class _Step:
    call: Mapping[str, Any]
    options: Mapping[str, Any]
    folder: Path
    ends: SimpleQueue[bool]
    tail: list[str] = field(default_factory=list)
    seen: Run | None = None
    hidden: Callable[[str], str] = str
    """Takes out the target's credentials, which the job's own secrets need not be."""

    def run(self) -> dict[str, Any]:
        config = self.config()
        execution = self.execution(config)
        needs = bindings(config, execution.settings.target)
        if needs and not self.call.get("bound"):
            return {"verdict": "SUCCESS", "needs": needs}
        if self.call.get("cancel"):
            return _cancelled(execution)
        self.hidden = masking.mask(secrets(needs), {})
        drive = Drive(lambda: execution, self.say, see=self.see)
        drive.done.add_done_callback(lambda done: self.ends.put(False))
        if self.ends.get():
            return _interrupted(drive)
        return self.told(drive, execution, drive.done.result())

    def see(self, outcome: Outcome) -> None:
        """Says which run is in hand; a later attempt, too."""
        if outcome.run != self.seen:
            self.seen = outcome.run
            click.echo(f"mlctl: {'started' if outcome.made else 'found'} {outcome.run}")

    def say(self, line: str) -> None:
        """Prints a line of the job's log, and keeps the last ones for the reports."""
        line = self.hidden(line)
        self.tail = [*self.tail[1 - _TAIL :], line]
        with contextlib.suppress(OSError):  # the agent's disk is full; the job's outcome is told all the same
            click.echo(line)

    def config(self) -> Config:
        """The configuration for what was asked, once it is known to be something."""
        asked = self.options
        for name in asked:
            if name not in (*OPTIONS, "kind"):
                near = did_you_mean(name, OPTIONS) or f"; there are {', '.join(OPTIONS)}"
                raise InvalidConfig(f"{self.step()}: no argument '{name}'{near}")
        if not isinstance(asked.get("job"), str):
            raise InvalidConfig(f"{self.step()}: job: got {one_line(asked.get('job'))}, expected a job file's path")
        for name, types, expected in _TYPES:
            if asked.get(name) is not None and type(asked[name]) not in types:
                raise InvalidConfig(f"{self.step()}: {name}: got {one_line(asked[name])}, expected {expected}")
        return configuration.load(Path(asked["job"]), asked.get("config"), asked.get("profile"), asked.get("target"))

    def execution(self, config: Config) -> Execution:
        """The job on its way; whatever is wrong with what was asked is said here, before anything starts."""
        asked, call = self.options, self.call
        for name in ("params", "inputs"):
            if not isinstance(asked.get(name) or {}, Mapping):
                raise InvalidConfig(f"{self.step()}: {name}: got {one_line(asked[name])}, expected a map")
        again = asked.get("retry")  # null is as good as left out
        made = api.execution(
            asked["job"], params=asked.get("params"), inputs=asked.get("inputs"), config=config,
            key=str(asked.get("key") or call["key"]), retry=bool(call.get("retry") if again is None else again),
            on_change=asked.get("onChange") or "fail",
        )  # fmt: skip
        kind = asked.get("kind")
        if kind and made.job.kind.name != kind:
            right = library.step_of(made.job.kind.name)
            raise made.job.fail(("kind",), f"got {made.job.kind.name}, and {self.step()} is for {kind}; use {right}")
        for name in self.named():
            if name not in made.job.outputs:
                known = did_you_mean(name, made.job.outputs) or f"; it has {', '.join(made.job.outputs) or 'none'}"
                raise made.job.fail(
                    ("outputs",), f"{self.step()} is to archive '{name}', and the job has no such output{known}"
                )
        self.unstable(None)
        return made

    def step(self) -> str:
        kind = str(self.options.get("kind"))
        return library.step_of(kind) if kind in KINDS else "mlctl"

    def named(self) -> list[str]:
        named = self.options.get("outputs") or []
        if not isinstance(named, list):
            raise InvalidConfig(f"{self.step()}: outputs: got {one_line(named)}, expected a list of outputs' names")
        return [str(name) for name in named]

    def unstable(self, status: Status | None) -> bool:
        """Whether the job's bad end makes the build unstable rather than failed."""
        wanted = self.options.get("unstable")
        if not (wanted is None or isinstance(wanted, bool)):
            if not isinstance(wanted, list) or not all(type(code) is int for code in wanted):
                raise InvalidConfig(
                    f"{self.step()}: unstable: got {one_line(wanted)}, expected true, or a list of exit codes"
                )
            return status is not None and status.exit_code in wanted
        own = status is not None and status.reason in (Reason.ERROR, Reason.OOM, Reason.TIMEOUT)
        return bool(wanted) and own

    def told(self, drive: Drive, execution: Execution, outcome: Outcome) -> dict[str, Any]:
        """The answer, the reports, and the outputs to archive."""
        status, found = outcome.status, execution.backend.result(outcome.run)
        assert status  # noqa: S101 - a wait without a timeout ends with one
        masked = lambda text: self.hidden(drive.masked(text))  # noqa: E731
        good, failed = status.state is State.SUCCEEDED, drive.failed(outcome)
        result = {
            "run": str(outcome.run), "name": outcome.run.name, "key": execution.key.text, "made": outcome.made,
            "target": execution.settings.target, "attempt": outcome.run.attempt, "state": status.state.value,
            "reason": status.reason.value if status.reason else None, "exitCode": status.exit_code,
            "message": masked(status.message), "link": status.link,
            "outputs": dict(found.outputs), "metrics": found.metrics,
        }  # fmt: skip
        error = None if good else masked(str(failed))
        at = self.folder / "mlctl" / outcome.run.name
        at.mkdir(parents=True)
        report.write(at, report.Report(execution.job, status, result, error, self.tail, masked))
        if good:
            self.archive(at / "outputs", found.outputs)
        # JSON has no number that is not finite: in the file of metrics, too, it is a text
        result["metrics"] = {k: v if math.isfinite(v) else json.dumps(v) for k, v in found.metrics.items()}
        return {
            "code": 0 if good else failed.exit_code,
            "verdict": "SUCCESS" if good else "UNSTABLE" if self.unstable(status) else "FAILURE",
            "error": error, "name": outcome.run.name, "result": result,
        }  # fmt: skip

    def archive(self, into: Path, outputs: Mapping[str, str]) -> None:
        """Copies outputs that are folders of this machine to where Jenkins archives from: those named, else small
        ones."""
        named = self.named()
        for name in named or (outputs if self.options.get("outputs") is None else []):
            source = Path(outputs[name])
            if "://" in outputs[name] or not source.exists():
                if name in named:
                    click.echo(f"mlctl: output {name} is at {outputs[name]}, not on this agent, and is not archived")
            elif name in named or _size(source) <= SMALL:
                _kept(name, source, into / name)
            else:
                click.echo(
                    f"mlctl: output {name} is larger than {SMALL >> 20} MiB and is not archived; name it in outputs: to have it",
                )


def _kept(name: str, source: Path, target: Path) -> None:
    """A copy, whole or not at all: the job succeeded, and where what it left is, its result says."""
    try:
        shutil.copytree(source, target, symlinks=True)
    except OSError as reason:  # of shutil it may be a list: source, target, why
        why = reason.args[0][0][2] if isinstance(reason, shutil.Error) else f"{reason.filename}: {reason.strerror}"
        click.echo(f"mlctl: output {name} is not archived: {why}")
        shutil.rmtree(target, ignore_errors=True)


def _interrupted(drive: Drive) -> dict[str, Any]:
    """Ends what the call has in hand. Raises Interrupted where that is nothing, Unavailable where it doesn't end."""
    outcome = drive.stop(_PATIENCE)
    state = outcome.status.state if outcome.status else State.CANCELLED
    text = f"interrupted: {outcome.run.name} {'was' if state is State.CANCELLED else 'had'} {state.value}"
    click.echo(f"mlctl: {text}")
    return {"code": Interrupted.exit_code, "verdict": "FAILURE", "error": text}


def _cancelled(execution: Execution) -> dict[str, Any]:
    """Ends what runs under the call's key: for a call whose process can't."""
    for found in execution.backend.find(execution.key):
        if not found.status.state.terminal:
            with contextlib.suppress(RunNotFound):
                lifecycle.cancel(execution.backend, found.run)
                click.echo(f"mlctl: {found.run.name} was cancelled")
    return {"verdict": "SUCCESS"}


def _size(source: Path) -> int:
    return sum(one.lstat().st_size for one in source.rglob("*"))
