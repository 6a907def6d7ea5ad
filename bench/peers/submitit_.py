"""submitit's `local` executor. Its jobs are Python functions, so the job is one that does what the program would.

That favours submitit: it is spared starting the program. `job.result()` looks once a second, fixed;
`awaitable().result(poll_interval)` is its documented way to look more often, here every 2 ms. (Its controller process
looks 24 times a second, fixed.)
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import submitit
from common import drive, noted_in

EXECUTOR = submitit.LocalExecutor(folder=Path.cwd() / "submitit")


def note_times(file: Path) -> None:  # as job.py does
    started = time.monotonic_ns()
    file.write_text(f"{started} {time.monotonic_ns()}")


def nothing() -> None:
    pass


def submit(command: list[str]) -> submitit.Job[None]:
    notes = noted_in(command)
    return EXECUTOR.submit(note_times, notes) if notes else EXECUTOR.submit(nothing)


drive(submit, lambda job: asyncio.run(job.awaitable().result(poll_interval=0.002)))
