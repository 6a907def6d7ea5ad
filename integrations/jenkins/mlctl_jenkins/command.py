"""`mlctl jenkins ...`: the step that the shared library runs, and what people and CI run against a controller.

Nothing but click is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_CONTROLLER = (
    click.option("--url", envvar="JENKINS_URL", default="", help="The controller; JENKINS_URL."),
    click.option("--user", envvar="JENKINS_USER", default="", help="Who asks; JENKINS_USER."),
    click.option(
        "--token", envvar="JENKINS_TOKEN", default="", help="An API token; better in JENKINS_TOKEN, which ps doesn't show."
    ),
)  # fmt: skip


def _on_controller(command: Any) -> Any:
    for option in reversed(_CONTROLLER):
        command = option(command)
    return command


@click.group()
def jenkins() -> None:
    """Jenkins: write the shared library, check a Jenkinsfile, install a pipeline, start it and wait for it."""


@jenkins.command()
def step() -> int:
    """What the library's steps run: JSON in $MLCTL_STEP, the answer in the file that it names."""
    from .step import main

    return main()


@jenkins.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="jenkins-library")
def library(folder: Path) -> None:
    """Write FOLDER/vars, src and resources: the shared library that Jenkins loads. What they held is replaced."""
    from .library import write

    write(folder)
    click.echo(f"{folder}: written")


@jenkins.command()
@click.argument("jenkinsfiles", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_on_controller
def validate(jenkinsfiles: tuple[Path, ...], url: str, user: str, token: str) -> int:
    """Check declarative Jenkinsfiles on the controller. Exit code 2 where it finds fault with one."""
    from .controller import Controller
    from .pipeline import script

    code = 0
    with Controller(url, user, token) as controller:
        for path in jenkinsfiles:
            faults = controller.faults(script(path))
            for fault in faults:
                click.echo(f"{path}: {fault}", err=True)
            if faults:
                code = 2
            else:
                click.echo(f"{path}: valid")
    return code


@jenkins.command()
@click.argument("name")
@click.option("-f", "--jenkinsfile", type=click.Path(path_type=Path, exists=True, dir_okay=False), default="Jenkinsfile",
              show_default=True, help="The pipeline's script, kept in the job's configuration.")  # fmt: skip
@click.option("-j", "--job", "jobs", multiple=True, type=click.Path(path_type=Path),
              help="A job file; each of its params becomes a parameter of the pipeline.")  # fmt: skip
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=DEFAULT",
              help="A parameter of the pipeline, of text.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the configuration, and send nothing.")
@_on_controller
def install(
    name: str, jenkinsfile: Path, jobs: tuple[Path, ...], parameters: tuple[str, ...], dry_run: bool,
    url: str, user: str, token: str,
) -> None:  # fmt: skip
    """Make the pipeline job NAME (folder/name), or bring it up to date, with its parameters declared."""
    from . import pipeline
    from .controller import Controller

    declared = pipeline.parameters(jobs, parameters)
    text = pipeline.config(pipeline.script(jenkinsfile), declared)
    if dry_run:
        click.echo(text)
        return
    with Controller(url, user, token) as controller:
        verb = controller.install(name, text)
    click.echo(f"{name}: {verb}, with {len(declared)} parameters")


@jenkins.command()
@click.argument("name")
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter's value for this build."
)
@click.option("--timeout", default="1h", show_default=True, help="Wait no longer for the end; then exit code 75.")
@click.option("--quiet", is_flag=True, help="Don't print the build's log.")
@_on_controller
def trigger(
    name: str, params: tuple[str, ...], timeout: str, quiet: bool, url: str, user: str, token: str
) -> int:  # fmt: skip
    """Start a build of NAME and wait for its end, its log on stdout.

    Exit code 0 for SUCCESS, 3 for UNSTABLE, 130 for ABORTED, 75 where the wait was not enough, else 1.
    """
    from .controller import Controller
    from .pipeline import pairs
    from .waiting import follow

    with Controller(url, user, token) as controller:
        return follow(controller, name, pairs(params, "--param"), timeout, quiet)
