"""Commands about runs: status, describe, wait, logs, metrics, outputs, cancel, list."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from mlctl import api, config, ledger, units
from mlctl.errors import InvalidConfig, MlctlError, RunFailed, RunNotFound, Unavailable, refused
from mlctl.runs import Run, State, Status

from . import complain, show, unread

_RUN = click.argument("run", metavar="RUN")
_RUNS = click.argument("runs", nargs=-1, required=True, metavar="RUN...")


def _statuses(runs: Mapping[Run, str], settings: config.Config) -> dict[Run, Status | MlctlError]:
    """What is said of each, which comes with the target that the record has for it: one call for all the runs of a scope."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.backend, run.account, run.scope), []).append(run)
    answers: dict[Run, Status | MlctlError] = {}
    for group in groups.values():
        try:
            answers |= api.backend_of(group[0], settings, runs[group[0]]).status(group)
        except MlctlError as error:
            answers |= dict.fromkeys(group, error)
    return answers


@click.command()
@_RUNS
@show.json_option
def status(runs: tuple[str, ...], json_: bool) -> int:
    """Show the state of runs."""
    settings = config.load()
    targets: dict[Run, str] = {}
    asked: list[Run | tuple[str, MlctlError]] = []
    for text in runs:
        try:
            run, entry = api.named(text, settings)
            targets[run] = entry.target if entry else ""
            asked.append(run)
        except MlctlError as error:
            if len(runs) == 1:
                raise
            asked.append((text, error))
    known = _statuses(targets, settings)
    rows = [(one.name, str(one), known[one]) if isinstance(one, Run) else (one[0], *one) for one in asked]
    if json_:
        plain = [{"run": url, **_json(answer)} for _, url, answer in rows]
        show.as_json(plain if len(runs) > 1 else plain[0])
    else:
        show.table(("NAME", "STATE", "TOOK", "MESSAGE"), ((name, *_cells(answer)) for name, _, answer in rows))
    return next((answer.exit_code for _, _, answer in rows if isinstance(answer, MlctlError)), 0)


def _json(answer: Status | MlctlError) -> dict[str, Any]:
    return {"state": None, "message": str(answer)} if isinstance(answer, MlctlError) else answer.to_json()


def _cells(answer: Status | MlctlError) -> tuple[str, str, str]:
    if isinstance(answer, MlctlError):
        return show.paint(None), "", str(answer)
    return show.paint(answer.state), show.duration(answer), answer.message


@click.command()
@_RUN
@show.json_option
def describe(run: str, json_: bool) -> None:
    """Show all that is known of a run."""
    settings = config.load()
    handle = api.reach(run, settings)
    found, result = handle.status(), handle.result()
    entry = next((one for one in ledger.recent(settings.home) if one.run == handle.url), None)
    submitted = vars(entry) if entry else {}
    if json_:
        answer = {"run": handle.url, "name": handle.name, "status": found.to_json(), "outputs": result.outputs}
        known = {name: value for name, value in submitted.items() if name != "run"}
        show.as_json({**answer, "metrics": result.metrics, "submitted": known or None})
        return
    rows = {
        "name": handle.name, "run": handle.url, "state": show.paint(found.state), "took": show.duration(found),
        "reason": found.reason.value if found.reason else "", "message": found.message,
        "exit code": "" if found.exit_code is None else str(found.exit_code), "link": found.link,
        "started": _local(found.started), "finished": _local(found.finished),
    }  # fmt: skip
    rows |= {name: str(submitted[name]) for name in ("job", "kind", "target", "key") if name in submitted}
    rows |= {f"output {name}": address for name, address in result.outputs.items()}
    show.described(rows | {f"metric {name}": f"{value:g}" for name, value in result.metrics.items()})


def _local(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


@click.command()
@_RUN
@click.option(
    "--timeout", metavar="DURATION", help="Wait no longer, such as 10m; then exit code 75, and the run goes on."
)
@show.json_option
def wait(run: str, timeout: str | None, json_: bool) -> int:
    """Wait for the end of a run; its outcome is the exit code."""
    handle = api.reach(run)
    found = handle.ended(_seconds("--timeout", timeout))
    if found is None:
        raise Unavailable(f"{handle.name}: still going after {timeout}; it goes on")
    with unread():
        if json_:
            show.as_json({"run": handle.url, **found.to_json()})
        else:
            click.echo(f"{handle.name}: {show.paint(found.state)}")
    if found.state is State.SUCCEEDED:
        return 0
    failure = RunFailed(handle.run, found)
    return complain(str(failure), failure.exit_code)


def _seconds(option: str, text: str | None) -> int | None:
    try:
        return units.seconds(text) if text else None
    except ValueError as reason:
        raise InvalidConfig(f"{option}: {reason}") from None


@click.command()
@_RUN
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
def logs(run: str, follow: bool) -> int:
    """Print a run's log."""
    handle = api.reach(run)
    try:
        for line in handle.logs(follow):
            click.echo(line)
    except KeyboardInterrupt:
        return 130
    return 0


@click.command()
@_RUN
@click.option("--history", is_flag=True, help="Every point, not only the last.")
@show.json_option
def metrics(run: str, history: bool, json_: bool) -> None:
    """Show a run's metrics: the last value of each, or every point."""
    result = api.reach(run).result()
    if history:
        points = [vars(point) for point in result.points]
        if json_:
            show.as_json(points)
        else:
            rows = ((one.name, "" if one.step is None else str(one.step), f"{one.value:g}") for one in result.points)
            show.table(("METRIC", "STEP", "VALUE"), rows)
    elif json_:
        show.as_json(result.metrics)
    else:
        show.described({name: f"{value:g}" for name, value in result.metrics.items()})


@click.command()
@_RUN
@click.argument("name", required=False)
@click.option("--download", type=click.Path(path_type=Path, file_okay=False), help="Copy them into this folder.")
@show.json_option
def outputs(run: str, name: str | None, download: Path | None, json_: bool) -> None:
    """Show where a run's outputs are; of one with a NAME, the address alone."""
    handle = api.reach(run)
    found: Mapping[str, str] = handle.result().outputs
    if name is not None:
        if name not in found:
            raise InvalidConfig(f"{handle.name}: no output '{name}'; it has {', '.join(found) or 'none'}")
        found = {name: found[name]}
    if download is not None:
        found = {each: str(_copied(each, address, download)) for each, address in found.items()}
    if json_:
        show.as_json(found if name is None else found[name])
    elif name is not None:
        click.echo(found[name])
    else:
        show.described(found)


def _copied(name: str, address: str, into: Path) -> Path:
    """Copies one output to `into`/`name`, whole or not at all."""
    from mlctl import data

    target = into / name
    if target.exists():
        raise InvalidConfig(f"--download: {target} exists already; choose another folder")
    if not Path(address).exists():
        raise RunNotFound(f"output {name}: nothing at {address}")
    try:
        into.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=into))
        try:
            data.copy(Path(address), draft / name)
            (draft / name).rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except ValueError as reason:
        raise InvalidConfig(f"--download: {reason}") from None
    except OSError as reason:
        raise refused(target, reason) from None
    return target


@click.command()
@_RUNS
@click.option("--timeout", metavar="DURATION", help="Wait no longer for the end, such as 1m; then exit code 75.")
@show.json_option
def cancel(runs: tuple[str, ...], timeout: str | None, json_: bool) -> int:
    """End runs, and wait for their end: SIGTERM, a grace, SIGKILL. A no-op for a run that has ended."""
    settings, code = config.load(), 0
    answers: list[dict[str, Any]] = []
    for text in runs:
        try:
            handle = api.reach(text, settings)
            found = handle.cancel(_seconds("--timeout", timeout))
            if found is None:
                raise Unavailable(f"{handle.name}: still stopping after {timeout}")
            answers.append({"run": handle.url, **found.to_json()})
            if not json_:
                with unread():
                    click.echo(f"{handle.name}: {show.paint(found.state)}")
        except MlctlError as error:
            code = complain(str(error), error.exit_code)
    if json_:
        with unread():
            show.as_json(answers)
    return code


@click.command(name="list")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, at most.")
@click.option("--job", help="Only runs of this job.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only runs in this state.")
@show.json_option
def list_(limit: int, job: str | None, state: str | None, json_: bool) -> None:
    """List the runs submitted from this machine, the newest first."""
    settings = config.load()
    chosen: list[tuple[ledger.Entry, Status | MlctlError]] = []
    entries = (one for one in ledger.recent(settings.home) if job in (None, one.job))
    while len(chosen) < limit and (batch := list(itertools.islice(entries, limit))):
        answers = _statuses({Run.parse(entry.run): entry.target for entry in batch}, settings)
        for entry in batch:
            answer = answers[Run.parse(entry.run)]
            gone = isinstance(answer, RunNotFound)
            if not gone and (state is None or (isinstance(answer, Status) and answer.state.value == state)):
                chosen.append((entry, answer))
    del chosen[limit:]
    if json_:
        show.as_json([{**vars(entry), **_json(answer)} for entry, answer in chosen])
        return
    rows = [
        (Run.parse(entry.run).name, *_cells(answer)[:2], entry.kind, entry.target, _ago(entry.time), entry.key)
        for entry, answer in chosen
    ]
    show.table(("NAME", "STATE", "TOOK", "KIND", "TARGET", "SUBMITTED", "KEY"), rows)


def _ago(time: float) -> str:
    return units.shown_seconds(max(0.0, datetime.now(timezone.utc).timestamp() - time)) + " ago"
