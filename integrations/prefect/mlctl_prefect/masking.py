"""Keeps the job's secrets out of Prefect's log, as far as this machine knows their values.

What only the platform can read, of its own secret store, is the platform's to mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mlctl.backend import Settings
from mlctl.errors import RunFailed
from mlctl.job import Job

__all__ = ["mask", "masked"]

_SHORTEST = 3  # characters: what is shorter would mask half the log


def mask(job: Job, settings: Settings) -> Callable[[str], str]:
    """A function that puts *** in place of each secret's value, and of each line of it."""
    lines = {line.strip() for value in _values(job, settings) for line in value.splitlines()}
    known = sorted((line for line in lines if len(line) >= _SHORTEST), key=len, reverse=True)

    def masked(text: str) -> str:
        for each in known:
            text = text.replace(each, "***")
        return text

    return masked


def _values(job: Job, settings: Settings) -> Iterator[str]:
    for name in job.secrets:
        source = str(settings.values.get("secrets", {}).get(name, f"env:{name}"))
        kind, _, where = source.partition(":")
        if kind == "env":
            yield os.environ.get(where, "")
        elif kind == "file":
            try:
                yield Path(where).expanduser().read_text(encoding="utf-8", errors="replace")
            except (OSError, RuntimeError):  # the platform says so itself
                continue


def masked(error: RunFailed, hide: Callable[[str], str]) -> RunFailed:
    """The error, its message masked."""
    return RunFailed(error.run, replace(error.status, message=hide(error.status.message)))
