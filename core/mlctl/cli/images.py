"""Commands about images: image build, image push."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlctl import config, jobfile
from mlctl.builder import Docker
from mlctl.image import Build, Image
from mlctl.job import Job
from mlctl.package import Package

from . import show

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    for option in (
        click.option("--config", "file", type=click.Path(path_type=Path), help="The configuration; else the nearest mlctl.yaml."),
        click.option("--without-code", is_flag=True, help="As a target's build: auto has it: the code comes with each job."),
        click.option("--platform", help="What it is for; linux/amd64 unless said."),
        click.option("--base", help="The image to start from, such as python:{python}-slim."),
        click.option("--profile", help="The routes to use; MLCTL_PROFILE, else dev."),
        click.option("-t", "--target", help="The target whose build: settings to use; else the profile's routes decide."),
        click.argument("job", type=click.Path(path_type=Path)),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def image() -> None:
    """Build and push images with what a job needs. Nothing is built whose tag is there."""


@image.command()
@_options
@click.option("--push", is_flag=True, help="Put it into its registry, too.")
@click.option("--tag", "tags", multiple=True, metavar="NAME:TAG", help="Another name for it, too; may be given again.")
@click.option("--rebuild", is_flag=True, help="Build it although it is there, with a base pulled anew.")
@click.option("--dry-run", is_flag=True, help="Show its name and its Dockerfile; build nothing.")
@show.json_option
def build(
    job: Path, push: bool, tags: tuple[str, ...], rebuild: bool, dry_run: bool, json_: bool, **options: Any
) -> None:
    """Build the image of JOB: its Python, requirements, system packages and code."""
    made, package = _made(job, **options)
    if dry_run:
        if json_:
            show.as_json(_answer(made) | {"dockerfile": made.dockerfile})
        else:
            click.echo(f"# {made.reference}\n{made.dockerfile}", nl=False)
        return
    docker = Docker(_say)
    done = docker.ensure(made, package, push, rebuild)
    for tag in tags:
        if not docker.local(made.reference):  # it was found in its registry
            docker.pull(made.reference)
        docker.tag(made.reference, tag)
        if push:
            docker.push(tag)
    _show(made, done, json_)


@image.command()
@_options
@show.json_option
def push(job: Path, json_: bool, **options: Any) -> None:
    """Put the image of JOB, which was built before, into its registry."""
    made, _ = _made(job, **options)
    docker = Docker(_say)
    found = docker.remote(made.reference)
    if not found:
        docker.push(made.reference)
    _show(made, "found" if found else "pushed", json_)


def _made(
    job: Path,
    file: Path | None,
    target: str | None,
    profile: str | None,
    base: str | None,
    platform: str | None,
    without_code: bool,
) -> tuple[Image, Package | None]:
    loaded: Job = jobfile.load(job)
    settings = config.load(job, file, profile, target)
    chosen = settings.target(settings.route(loaded))
    flags = {name: value for name, value in (("base", base), ("platform", platform)) if value}
    packed = loaded.packed(settings.home / "packages")
    return Build.of(settings, chosen, flags).image(packed, code=not without_code), packed.package


def _say(line: str) -> None:
    if logging.getLogger("mlctl").isEnabledFor(logging.INFO):  # not --quiet
        click.echo(line, err=True)


def _show(made: Image, done: str, json_: bool) -> None:
    if json_:
        show.as_json(_answer(made) | {"done": done})
        return
    _say(f"{done} {made.reference}")
    click.echo(made.reference)


def _answer(made: Image) -> dict[str, Any]:
    return {"image": made.reference, "digest": made.digest, "base": made.build.base, "platform": made.build.platform}
