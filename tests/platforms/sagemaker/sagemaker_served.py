"""SageMaker's stand-in, as a process of its own serves it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sagemaker_harness import CREDENTIALS, SETTINGS, furnish
from sagemaker_jobs import Runner
from sagemaker_standin import StandIn


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The variables and the target that reach it."""
    with serving(Runner(folder / "jobs", _image(folder / "image"))) as reached:
        yield reached


@contextlib.contextmanager
def serving(
    run: Callable[..., None], knows: Callable[[str, str], bool] | None = None
) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The same, where `run` runs the jobs, and `knows` says whether an access key, and its session token, are in force."""
    made = StandIn(run)
    made.knows = knows or made.knows
    env = {**CREDENTIALS, "AWS_ENDPOINT_URL": made.url}
    os.environ.update(env)
    try:
        furnish(made.url)
        yield env, {"backend": "sagemaker", **SETTINGS}
    finally:
        made.close()


def _image(folder: Path) -> Path:
    """The programs of an image with Python and pip, as AWS's have: what a job's requirements name is installed there. It
    has what this environment has, boto3 among it."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "image.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"
