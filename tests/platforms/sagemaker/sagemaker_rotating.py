"""SageMaker's stand-in, whose user's credentials are rotated: it refuses access keys, alone or with a session token, that the
file `revoked` names, and notes whose calls it took in `taken`. Its jobs run until there is a file `gate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sagemaker_served import serving
from sagemaker_standin import Job, StandIn


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The variables and the target that reach it; its files are in `folder`."""
    revoked = folder / "revoked"
    revoked.touch()

    def knows(access: str, token: str) -> bool:
        who = f"{access} {token}".rstrip()
        known = who not in revoked.read_text().splitlines()
        with (folder / ("taken" if known else "refused")).open("a") as file:
            file.write(f"{who}\n")
        return known

    def run(standin: StandIn, job: Job) -> None:
        job.begin()
        while not job.stopping.wait(0.1) and not (folder / "gate").exists():
            pass
        status = "Stopped" if job.stopping.is_set() else "Completed"
        job.end(status, status)

    with serving(run, knows) as reached:
        yield reached
