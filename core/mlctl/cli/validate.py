"""The command about job files alone: validate. It knows nothing of platforms, and imports nothing of them."""

from __future__ import annotations

from pathlib import Path

import click

from mlctl import jobfile
from mlctl.errors import MlctlError
from mlctl.job import Job

from . import complain, show, unread


@click.command()
@click.argument("jobs", nargs=-1, required=True, type=click.Path(path_type=Path))
@show.json_option
def validate(jobs: tuple[Path, ...], json_: bool) -> int:
    """Check job files: every field, every placeholder, every file they name. Starts nothing."""
    errors: dict[str, str | None] = {}
    for path in jobs:
        try:
            job = jobfile.load(path)
            _check_files(job)
            errors[str(path)] = None
        except MlctlError as error:
            errors[str(path)] = str(error)
    with unread():
        if json_:
            show.as_json([{"job": path, "valid": text is None, "error": text} for path, text in errors.items()])
        for name, text in errors.items():
            if text is not None:
                complain(text, 2)
            elif not json_:
                click.echo(f"{name}: {click.style('valid', fg='green')}")
    return 2 if any(errors.values()) else 0


def _check_files(job: Job) -> None:
    if job.code is not None and not job.code.is_dir():
        raise job.fail(("code",), f"{job.code}: no such folder")
    for name, each in job.inputs.items():
        if each.uri and "://" not in each.uri and not Path(each.uri).exists():
            raise job.fail(("inputs", name), f"{each.uri}: no such file or folder")
    if isinstance(job.requirements, Path) and not job.requirements.is_file():
        raise job.fail(("requirements",), f"{job.requirements}: no such file")
