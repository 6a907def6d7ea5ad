"""`mlctl kfp ...`: writes the component of each kind, and is what those components run.

Nothing but click is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def kfp() -> None:
    """Kubeflow Pipelines: write the components, one for each kind of job."""


@kfp.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="components")
@click.option("--image", default="", help="The launcher's image, as the cluster pulls it.")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a file is out of date.")
def components(folder: Path, image: str, check: bool) -> int:
    """Write FOLDER/train.yaml and its like, which KFP loads without mlctl."""
    from . import files

    stale = files.stale(folder, image)
    for path, text in stale.items():
        if not check:
            files.write(path, text.encode())
        click.echo(f"{path}: {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


@kfp.command(hidden=True)
@click.option("--kind", required=True)
@click.argument("executor_input")
def step(kind: str, executor_input: str) -> None:
    """What the components run: EXECUTOR_INPUT is KFP's own description of the step, in JSON."""
    from . import launcher

    launcher.main(kind, executor_input)
