"""One call of a step of the shared library: a job started or found, followed, and told as JSON.

$MLCTL_STEP holds {"call": ..., "options": ...}. `options` is what the Jenkinsfile says; `call` is what the library
knows: `id` (of this call; the answer repeats it), `folder` (the call's own, outside the workspace, which jobs may
ship), `key`, `build` (of this build, whatever its number), `retry`, `bound` (the target's credentials are in the
environment), `cancel`.
The answer is `folder`/result.json, whole or not there at all; beside it stand the reports and the outputs to archive.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlctl import api, lifecycle
from mlctl import config as configuration
from mlctl.config import Config
from mlctl.errors import InvalidConfig, MlctlError, RunFailed, RunNotFound, did_you_mean, one_line
from mlctl.job import KINDS
from mlctl.lifecycle import Execution, Outcome
from mlctl.runs import Reason, Run, State, Status

from . import library, report
from .credentials import bindings, without

__all__ = ["VARIABLE", "main"]

VARIABLE = "MLCTL_STEP"
OPTIONS = ("job", "params", "inputs", "target", "profile", "config", "key", "retry", "onChange", "outputs", "unstable")
SMALL = 64 << 20  # bytes of outputs that are archived without being named: artifacts are kept on the controller
_TAIL = 200  # lines of the log in the reports


class Interrupted(BaseException):
    """SIGTERM, which is how Jenkins aborts."""


def main() -> int:
    """Runs the call; its exit code. Raises InvalidConfig where nobody called."""
    call, options = _request()
    folder = Path(call["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {"id": call["id"], "verdict": "FAILURE"}
    try:
        answer |= _Step(call, options, folder).run()
    except MlctlError as error:
        answer |= {"code": error.exit_code, "error": str(error)}
    draft = folder / "result.json.new"
    draft.write_text(json.dumps(answer, ensure_ascii=True), encoding="utf-8")
    draft.rename(folder / "result.json")
    return int(answer["code"])


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

    def run(self) -> dict[str, Any]:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            config = self.config()
            execution = self.execution(without(config))
            if self.call.get("cancel"):
                return self.cancelled(execution)
            if (needs := bindings(config, execution.settings.target)) and not self.call.get("bound"):
                return {"code": 0, "verdict": "SUCCESS", "needs": needs}
        except Interrupted:  # nothing was started
            return {"code": 130, "error": "interrupted before the job was started"}
        live = _Live(execution)
        outcome = None
        try:
            outcome = execution.start()
            click.echo(f"mlctl: {'started' if outcome.made else 'found'} {outcome.run}")
            outcome = execution.wait(outcome, each=live)
            live(outcome.run, outcome.status)
        except Interrupted:
            return self.aborted(execution, live.run or (outcome.run if outcome else None))
        assert outcome.status  # noqa: S101 - a wait without a timeout ends with one
        return self.told(execution, outcome, outcome.status, live)

    def config(self) -> Config:
        """The configuration for what was asked, once it is known to be something."""
        asked = self.options
        for name in asked:
            if name not in (*OPTIONS, "kind"):
                near = did_you_mean(name, OPTIONS) or f"; there are {', '.join(OPTIONS)}"
                raise InvalidConfig(f"{self.step()}: no argument '{name}'{near}")
        if not isinstance(asked.get("job"), str):
            raise InvalidConfig(f"{self.step()}: job: got {one_line(asked.get('job'))}, expected a job file's path")
        return configuration.load(Path(asked["job"]), asked.get("config"), asked.get("profile"), asked.get("target"))

    def execution(self, config: Config) -> Execution:
        """The job on its way; whatever is wrong with what was asked is said here, before anything starts."""
        asked, call = self.options, self.call
        for name in ("params", "inputs"):
            if not isinstance(asked.get(name) or {}, Mapping):
                raise InvalidConfig(f"{self.step()}: {name}: got {one_line(asked[name])}, expected a map")
        own = not asked.get("key")  # a key of the caller's may mean a run of another build
        made = api.execution(
            asked["job"], params=asked.get("params"), inputs=asked.get("inputs"), config=config,
            key=str(asked.get("key") or call["key"]),
            retry=bool(asked.get("retry", call.get("retry"))), on_change=asked.get("onChange") or "fail",
            values={"build": str(call["build"])[-256:]},
            accepts=lambda stamp: not own or stamp.values.get("build") == str(call["build"])[-256:],
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
        kind = self.options.get("kind")
        return library.step_of(str(kind)) if kind in KINDS else "mlctl"

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

    def aborted(self, execution: Execution, run: Run | None) -> dict[str, Any]:
        """Ends the run in hand; or, where the submit was interrupted, the one that it made."""
        execution.stop()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one changes nothing
        runs = [run] if run else []
        if not run:
            nonce = execution.prepare()[2].nonce
            runs = [found.run for found in execution.backend.find(execution.key) if found.stamp.nonce == nonce]
        return _ended(execution, runs)

    def cancelled(self, execution: Execution) -> dict[str, Any]:
        """Ends what runs under the call's key: for a call whose process can't."""
        return _ended(execution, [found.run for found in execution.backend.find(execution.key)])

    def told(self, execution: Execution, outcome: Outcome, status: Status, live: _Live) -> dict[str, Any]:
        """The answer, the reports, and the outputs to archive."""
        result = execution.backend.result(outcome.run)
        good = status.state is State.SUCCEEDED
        failed = RunFailed(outcome.run, status)
        answer = {
            "code": 0 if good else failed.exit_code,
            "verdict": "SUCCESS" if good else "UNSTABLE" if self.unstable(status) else "FAILURE",
            "error": None if good else live.masked(str(failed)),
            "run": str(outcome.run), "name": outcome.run.name, "key": execution.key.text, "made": outcome.made,
            "target": execution.settings.target, "attempt": outcome.run.attempt, "state": status.state.value,
            "reason": status.reason.value if status.reason else None, "exitCode": status.exit_code,
            "message": live.masked(status.message), "link": status.link,
            "outputs": dict(result.outputs), "metrics": result.metrics,
        }  # fmt: skip
        at = self.folder / "mlctl" / outcome.run.name
        at.mkdir(parents=True)
        report.write(at, answer, execution, status, live.tail)
        if good:
            self.archive(at / "outputs", result.outputs)
        return answer

    def archive(self, into: Path, outputs: Mapping[str, str]) -> None:
        """Copies outputs that are folders of this machine to where Jenkins archives from: those named, else small
        ones."""
        named = self.named()
        for name in named or ([] if "outputs" in self.options else outputs):
            source = Path(outputs[name])
            if "://" in outputs[name] or not source.exists():
                if name in named:
                    click.echo(f"mlctl: output {name} is at {outputs[name]}, not on this agent, and is not archived")
            elif name in named or _size(source) <= SMALL:
                shutil.copytree(source, into / name, symlinks=True)
            else:
                click.echo(
                    f"mlctl: output {name} is larger than {SMALL >> 20} MiB and is not archived; name it in outputs: to have it",
                )


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise Interrupted


def _ended(execution: Execution, runs: list[Run]) -> dict[str, Any]:
    names = []
    for run in runs:
        try:
            before = execution.backend.status([run])[run]
            if isinstance(before, Status) and before.state.terminal:
                continue
            lifecycle.cancel(execution.backend, run)
            names.append(run.name)
        except RunNotFound:
            continue
    what = f"{', '.join(names)} cancelled" if names else "nothing was running"
    click.echo(f"mlctl: interrupted: {what}")
    return {"code": 130, "error": f"interrupted: {what}"}


def _size(path: Path) -> int:
    return sum(one.lstat().st_size for one in path.rglob("*"))


class _Live:
    """Prints a run's log as it grows, without its secrets; keeps its end for the reports."""

    def __init__(self, execution: Execution) -> None:
        self.backend, self.cursor = execution.backend, ""
        self.run: Run | None = None
        self.tail: list[str] = []
        self.secrets = _secrets(execution)

    def masked(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "****")
        return text

    def __call__(self, run: Run, status: Status | None) -> None:
        if run != self.run:
            self.run, self.cursor = run, ""
        for logs in lifecycle.lines(self.backend, run, self.cursor):
            lines = [self.masked(line) for line in logs.lines]
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            self.tail = (self.tail + lines)[-_TAIL:]
            self.cursor = logs.cursor
        sys.stdout.flush()


def _secrets(execution: Execution) -> list[str]:
    """The values that this machine knows of the job's secrets, the longest first; a line of one is one, too."""
    sources = execution.settings.values.get("secrets", {})
    found: set[str] = set()
    for name in execution.job.secrets:
        kind, _, where = str(sources.get(name, f"env:{name}")).partition(":")
        try:
            text = os.environ.get(where, "") if kind == "env" else Path(where).read_text() if kind == "file" else ""
        except (OSError, ValueError):
            continue
        found |= {part for part in (text, *text.splitlines()) if len(part.strip()) > 2}
    return sorted(found, key=len, reverse=True)
