"""torchx's `local_cwd` scheduler by its Runner.

`wait` looks every 10 s by default; here, by its documented argument, every 2 ms. A log folder is given: without it each
job makes a temporary one. The thread that copies a job's logs ends by a poll of 100 ms, fixed, which `wait` waits for;
with two threads these waits overlap.
"""

from __future__ import annotations

from pathlib import Path

from common import drive
from torchx.runner import get_runner
from torchx.specs import AppDef, AppState, Role

RUNNER = get_runner()


def submit(command: list[str]) -> str:
    role = Role(name="bench", image="", entrypoint=command[0], args=command[1:])
    return RUNNER.run(AppDef(name="bench", roles=[role]), "local_cwd", cfg={"log_dir": str(Path.cwd() / "torchx")})


def wait(handle: str) -> None:
    status = RUNNER.wait(handle, wait_interval=0.002)
    if status is None or status.state != AppState.SUCCEEDED:
        raise SystemExit(f"the job ended as {status}")


drive(submit, wait, threads=True)
