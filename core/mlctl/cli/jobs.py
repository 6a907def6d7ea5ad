"""Commands that send jobs, or would: plan, run, submit."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from mlctl import api, document, lifecycle
from mlctl.drive import Drive
from mlctl.errors import InvalidConfig
from mlctl.runs import Plan, Result, State

from . import complain, show, unread
from .live import Live, Uploads

_PATIENCE = 30.0  # seconds to finish a submit, or to end a job, after an interrupt

F = TypeVar("F", bound=Callable[..., Any])


class _Pairs(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"got '{value}', expected NAME=VALUE", param, ctx)
        return name, text


def _once(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    try:
        return document.once(pairs)
    except document.GivenTwice as reason:
        raise click.BadParameter(str(reason), ctx, param) from None


def _pairs(*names: str, help: str) -> Callable[[F], F]:
    return click.option(*names, multiple=True, type=_Pairs(), callback=_once, help=help)


_OPTIONS = (
    click.argument("job", type=click.Path(path_type=Path)),
    _pairs("-p", "--param", "params", help="A parameter's value for this run."),
    _pairs("-i", "--input", "inputs", help="Where an input is, for this run: a path or URI."),
    click.option("--profile", help="The routes to use; MLCTL_PROFILE, else dev."),
    _pairs("--set", "settings", help="A setting of the target, for this run."),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="The configuration; MLCTL_CONFIG, else the nearest mlctl.yaml.",
    ),
)
_RUN_OPTIONS = (
    click.option("-t", "--target", help="Where to run; MLCTL_TARGET, else the profile's routes decide."),
    click.option("-k", "--key", help="The same key is the same run: adopts or reports what is there."),
    click.option("--retry", is_flag=True, help="Another attempt, where the last one under the key ended badly."),
    click.option(
        "--on-change", type=click.Choice(lifecycle.ON_CHANGE), default="fail", show_default=True,
        help="Where the key names a run of another version of the job: an error, take it, or start anew.",
    ),
)  # fmt: skip


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _settings(given: Mapping[str, str]) -> dict[str, Any]:
    """Values as YAML would read them where they are plain JSON, else as text."""
    found: dict[str, Any] = {}
    for name, text in given.items():
        try:
            found[name] = json.loads(text, object_pairs_hook=document.once)
            json.dumps(found[name], allow_nan=False)
        except document.GivenTwice as reason:
            raise InvalidConfig(f"--set {name}: {reason}") from None
        except (ValueError, RecursionError):
            found[name] = text
    return found


def _execution(job: Path, options: dict[str, Any], target: str | None) -> lifecycle.Execution:
    return api.execution(job, target=target, **{**options, "settings": _settings(options["settings"])})


@click.command()
@_with(*_OPTIONS)
@click.option("-t", "--target", "targets", multiple=True, help="Where; given more than once: compared.")
@show.json_option
def plan(job: Path, targets: tuple[str, ...], json_: bool, **options: Any) -> int:
    """Show exactly what would be sent to the platform, and what it would not honour. Starts nothing."""
    options["key"] = "plan"
    if len(targets) > 1:
        from . import compare

        return compare.plans(targets, partial(_execution, job, options), json_)
    found = _execution(job, options, next(iter(targets), None)).plan()
    if json_:
        show.as_json(found.to_json())
    else:
        _show_plan(found)
    return 0


def _show_plan(plan: Plan) -> None:
    show.described({"plan": plan.name, "target": f"{plan.target} ({plan.backend})"})
    for upload in plan.uploads:
        show.described({"upload": upload.address})
    for loss in plan.losses:
        click.echo(f"{click.style('not honoured', fg='yellow')}  {loss.field}: {loss.why}")
    click.echo(json.dumps(plan.request, indent=2, ensure_ascii=False))


@click.command()
@_with(*_OPTIONS, *_RUN_OPTIONS)
@show.json_option
def submit(job: Path, target: str | None, json_: bool, **options: Any) -> None:
    """Start a job, print its URL, and return."""
    execution = _execution(job, options, target)
    execution.uploading = Uploads.shown()
    outcome = execution.start()
    if json_:
        show.as_json(_answer(execution, outcome, None))
        return
    _announce(execution, outcome)
    click.echo(str(outcome.run))


@click.command()
@_with(*_OPTIONS, *_RUN_OPTIONS)
@click.option("--on-interrupt", type=click.Choice(("leave", "cancel")), default="leave", show_default=True,
              help="What Ctrl-C and SIGTERM do to the job.")  # fmt: skip
@show.json_option
def run(job: Path, target: str | None, on_interrupt: str, json_: bool, **options: Any) -> int:
    """Run a job, print its log while it runs, and end with its outcome as the exit code."""
    execution = _execution(job, options, target)
    execution.uploading = Uploads.shown()
    live = Live(lambda outcome: _announce(execution, outcome), to_stderr=json_)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        drive = Drive(lambda: execution, live.say, see=live.see)
        try:
            outcome = drive.wait()
        except KeyboardInterrupt:
            return _interrupted(drive, execution.key.text, on_interrupt)
    finally:
        signal.signal(signal.SIGTERM, before)
        live.clear()
    result = execution.backend.result(outcome.run)
    with unread():
        if json_:
            show.as_json(_answer(execution, outcome, result))
        else:
            _conclude(outcome, result)
    if outcome.status and outcome.status.state is State.SUCCEEDED:
        return 0
    failure = drive.failed(outcome)
    return complain(str(failure), failure.exit_code)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted(drive: Drive, key: str, what: str) -> int:
    if what == "cancel":
        outcome = drive.stop(_PATIENCE)
        state = outcome.status.state if outcome.status else State.CANCELLED
        return complain(
            f"interrupted: {outcome.run.name} {'was' if state is State.CANCELLED else 'had'} {state.value}", 130
        )
    with contextlib.suppress(Exception):  # while it is being submitted, that comes first
        drive.started.result(_PATIENCE)
    if drive.outcome is None:
        return complain(
            f"interrupted while starting; the same command with --key {key} finds what was started, or starts it", 130
        )
    name = drive.outcome.run.name
    return complain(f"interrupted; the job goes on: mlctl logs -f {name} follows it, mlctl cancel {name} ends it", 130)


def _announce(execution: lifecycle.Execution, outcome: lifecycle.Outcome) -> None:
    if not logging.getLogger("mlctl").isEnabledFor(logging.INFO):  # --quiet
        return
    verb = "started" if outcome.made else "found"
    name = click.style(outcome.run.name, bold=True)
    click.echo(f"{verb} {name} on {execution.settings.target}, key {execution.key.text}", err=True)


def _conclude(outcome: lifecycle.Outcome, result: Result) -> None:
    status = outcome.status
    if status is None:
        return
    took = show.duration(status)
    click.echo(f"{outcome.run.name}: {show.paint(status.state)}{f' in {took}' if took else ''}")
    rows = {f"  {name}": f"{value:g}" for name, value in result.metrics.items()}
    show.described(rows | {f"  {name}": address for name, address in result.outputs.items()})


def _answer(execution: lifecycle.Execution, outcome: lifecycle.Outcome, result: Result | None) -> dict[str, Any]:
    status = outcome.status
    answer: dict[str, Any] = {
        "run": str(outcome.run), "name": outcome.run.name, "key": execution.key.text, "target": execution.settings.target,
        "made": outcome.made, "status": status.to_json() if status else None,
    }  # fmt: skip
    if result is not None:
        answer |= {"outputs": dict(result.outputs), "metrics": result.metrics}
    return answer
