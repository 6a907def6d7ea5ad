"""Commands about projects and this machine: init, targets, schema, config, doctor, gc, completion."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import click

from mlctl import __version__, config, schemas, units
from mlctl import backend as backends
from mlctl.backend import Finding, Settings
from mlctl.config import Config
from mlctl.errors import InvalidConfig, MlctlError
from mlctl.job import KINDS

from . import complain, show

_CONFIG = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="The configuration; else the nearest mlctl.yaml."
)
_PROFILE = click.option("--profile", help="The routes to use; MLCTL_PROFILE, else dev.")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--template", default="sklearn", show_default=True, help="What to start from; 'list' shows what there is."
)
@click.option(
    "--from", "script", type=click.Path(path_type=Path), help="Write a job for this script, which stays as it is."
)
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default="train", show_default=True, help="With --from: the job's kind."
)
def init(folder: Path | None, template: str, script: Path | None, kind: str) -> None:
    """Start a project in FOLDER, or a job file for code that is there. Overwrites nothing."""
    from mlctl import scaffold

    if template == "list":
        show.table(("TEMPLATE", "WHAT"), scaffold.templates().items())
        return
    schema = schemas.text("job")
    if script is not None:
        if folder is not None:
            raise InvalidConfig("--from writes into the script's own project; leave the folder out")
        made = scaffold.adopt(script, schema=schema, kind=kind)
    elif folder is None:
        raise InvalidConfig(
            "which folder? mlctl init demo makes one; mlctl init . takes this one; --from takes a script"
        )
    else:
        made = scaffold.create(folder, template, schema=schema)
    for path in made:
        click.echo(str(path))
    jobs = [path for path in made if path.suffix == ".yaml" and path.parent.name == "jobs"]
    first = next((path for path in jobs if path.stem == "train"), jobs[0] if jobs else None)
    if first is not None:
        inside = f"cd {shlex.quote(str(folder))} && " if folder not in (None, Path()) else ""
        shown = first.relative_to(folder) if folder is not None and first.is_relative_to(folder) else first
        click.echo(f"next: {inside}mlctl run {shown}", err=True)


@click.command()
@_CONFIG
@_PROFILE
@show.json_option
def targets(file: Path | None, profile: str | None, json_: bool) -> None:
    """List the targets, and the routes of the profile in force."""
    settings = config.load(file=file, profile=profile)
    found = settings.values["targets"]
    rules = settings.values["profiles"].get(settings.profile, [])
    if json_:
        show.as_json({"targets": found, "profile": settings.profile, "routes": rules})
        return
    show.table(
        ("TARGET", "BACKEND", "SETTINGS"),
        (
            (name, one["backend"], " ".join(f"{key}={json.dumps(one[key])}" for key in one if key != "backend"))
            for name, one in found.items()
        ),
    )
    click.echo(f"\nprofile {settings.profile}: the first that matches")
    for rule in rules:
        conditions = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "target") or "any job"
        click.echo(f"  {conditions} -> {rule['target']}")


@click.command()
@click.argument("name", type=click.Choice(("job", "config")), default="job")
def schema(name: str) -> None:
    """Print the JSON Schema (draft 2020-12) of the job file, or of the configuration."""
    click.echo(schemas.text(name), nl=False)


@click.command(name="config")
@_CONFIG
@_PROFILE
@click.option("-t", "--target", help="As given to run.")
@show.json_option
def config_(file: Path | None, profile: str | None, target: str | None, json_: bool) -> None:
    """Show each value of the configuration, and where it came from."""
    settings = config.load(file=file, profile=profile, target=target)
    if json_:
        show.as_json({key: {"value": value, "from": origin} for key, value, origin in settings.rows()})
        return
    rows = [(key, json.dumps(value, ensure_ascii=False), origin) for key, value, origin in settings.rows()]
    show.table(("KEY", "VALUE", "FROM"), rows)
    for key, by in settings.locked.items():
        click.echo(f"{click.style('locked', fg='yellow')}  {key} by {by}")


@click.command()
@_CONFIG
@click.option("-t", "--target", help="Check this target only; else all.")
@show.json_option
def doctor(file: Path | None, target: str | None, json_: bool) -> int:
    """Check that this machine and its targets work, and say how to mend what doesn't."""
    settings = config.load(file=file)
    findings = [("mlctl", one) for one in _machine(settings)]
    if target:
        settings.target(target)  # an unknown one is no finding, but bad input
    for name in [target] if target else settings.values["targets"]:
        try:
            chosen = settings.target(name)
            made = backends.load(chosen.backend, Settings(name, chosen.settings, settings.home))
            findings += [(name, one) for one in made.check()]
        except MlctlError as error:
            findings.append((name, Finding("target", False, str(error), "correct mlctl.yaml")))
    if json_:
        show.as_json([{"target": name, **vars(one)} for name, one in findings])
    else:
        for name, one in findings:
            mark = click.style("ok  ", fg="green") if one.ok else click.style("fail", fg="red")
            click.echo(f"{mark}  {name}: {one.what}: {one.text}")
            if not one.ok and one.mend:
                click.echo(f"      mend: {one.mend}")
    return 0 if all(one.ok for _, one in findings) else 1


def _machine(settings: Config) -> Iterator[Finding]:
    yield Finding("version", True, f"mlctl {__version__} on Python {platform.python_version()}, {platform.system()}")
    sources = sorted({origin.rpartition(":")[0] or origin for origin in settings.origins.values()} - {"built in"})
    yield Finding("configuration", True, ", ".join(sources) or "built in only; mlctl.yaml adds targets")
    yield Finding("platforms", True, ", ".join(backends.names()))


@click.command()
@click.option(
    "--older-than", default="30d", show_default=True, metavar="DURATION", help="Keep what ended or was used since."
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@_CONFIG
@show.json_option
def gc(older_than: str, dry_run: bool, file: Path | None, json_: bool) -> int:
    """Remove old runs, and the code packages and environments that nothing uses any more. A removed run's key is forgotten."""
    try:
        before = time.time() - units.seconds(older_than)
    except ValueError as reason:
        raise InvalidConfig(f"--older-than: {reason}") from None
    settings, code = config.load(file=file), 0
    removed: list[str] = []
    for name in settings.values["targets"]:
        chosen = settings.target(name)
        try:
            made = backends.load(chosen.backend, Settings(name, chosen.settings, settings.home))
            for what in made.prune(before, dry_run):
                removed.append(what)
                if not json_:
                    click.echo(f"{'would remove' if dry_run else 'removed'} {what}")
        except MlctlError as error:
            code = complain(str(error), error.exit_code)
    if json_:
        show.as_json({"removed": removed, "dry_run": dry_run})
    elif not removed:
        click.echo(f"nothing older than {older_than}")
    return code


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script that completes mlctl: eval "$(mlctl completion bash)"."""
    from click.shell_completion import get_completion_class

    from . import cli

    made = get_completion_class(shell)
    if made is None:
        raise InvalidConfig(f"no completion for {shell}")
    click.echo(made(cli, {}, "mlctl", "_MLCTL_COMPLETE").source())
