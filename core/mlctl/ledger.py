"""The record of what was submitted from this machine, for people: `mlctl list` shows it, and a run that is named by its job
or its key is found through it.

One JSON line a submission, appended in one write. The lifecycle never reads it, and a record that can't be written
fails no run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidConfig
from .runs import Run

__all__ = ["Entry", "recent", "record"]

log = logging.getLogger(__name__)

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One submission: the run's URL, the job's name and kind, the target, the key, when, in seconds since 1970, and the names
    of the job's secrets, which are not to be shown of the run's log."""

    run: str
    job: str
    kind: str
    target: str
    key: str
    time: float
    secrets: Sequence[str] = ()

    @classmethod
    def of_line(cls, line: bytes) -> Entry:
        """Raises ValueError, TypeError, RecursionError or InvalidConfig for what `record` did not write."""
        entry = cls(**json.loads(line))
        texts = (entry.run, entry.job, entry.kind, entry.target, entry.key, *entry.secrets)
        if isinstance(entry.secrets, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError
        if not 0 <= entry.time < 1e12:  # seconds; and it is a number
            raise ValueError
        Run.parse(entry.run)
        return entry


def record(home: Path, run: str, job: str, kind: str, target: str, key: str, secrets: Sequence[str] = ()) -> None:
    """Appends a submission, of now, to the record below `home`."""
    line = json.dumps(vars(Entry(run, job, kind, target, key, time.time(), list(secrets)))) + "\n"
    try:
        home.mkdir(parents=True, exist_ok=True)  # nothing else may have been kept here yet
        fd = os.open(home / "record.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(fd).st_size
            cut = size and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk: what follows is a line of its own
            os.write(fd, b"\n" * bool(cut) + line.encode())
        finally:
            os.close(fd)
    except OSError as reason:
        log.warning("the run goes on, but is not in the record: %s: %s", home / "record.jsonl", reason.strerror)


def recent(home: Path) -> Iterator[Entry]:
    """The submissions, the newest first. Reads the file from its end, and no more of it than is asked for."""
    try:
        stream = (home / "record.jsonl").open("rb")
    except OSError:
        return
    with stream:
        at, rest = stream.seek(0, os.SEEK_END), b""
        while at > 0 or rest:
            step = min(_BLOCK, at)
            at = stream.seek(at - step)
            *lines, rest = reversed((stream.read(step) + rest).split(b"\n"))
            if at == 0:
                lines, rest = [*lines, rest], b""
            for line in lines:
                try:
                    entry = Entry.of_line(line)
                except (ValueError, TypeError, RecursionError, InvalidConfig):  # empty, cut short, or not ours
                    continue
                yield entry
