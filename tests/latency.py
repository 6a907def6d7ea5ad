"""What bench/orchestrators.py measures in each orchestrator, with the harness of its tests: tests/NAME/bench_latency.py.

The same two commands run as mlctl's job and as the orchestrator's own plainest task, in turn; they note when they start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SCRIPT = 'date +%s%N > "$0"; date +%s%N >> "$0"'


def command(notes: Path) -> list[str]:
    """Notes its first moment and its last in the file `notes`, in nanoseconds since 1970."""
    return ["/bin/sh", "-c", SCRIPT, str(notes)]


def job(folder: Path, notes: Path) -> Path:
    """A job file in `folder` that runs the command."""
    path = folder / f"{notes.name}.yaml"
    path.write_text(json.dumps({"kind": "process", "name": "latency", "command": command(notes)}))
    return path


def turns(subjects: Sequence[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Each subject in turn, with a file for its notes; the first round is not counted."""
    for number in range(int(os.environ.get("ROUNDS", "1")) + 1):
        for subject in subjects:
            yield subject, folder / f"{'warm' if number == 0 else 'turn'}-{number}-{subjects.index(subject)}"


def tell(subject: str, notes: Path, began: float, known: float) -> None:
    """Adds a line to the file $LATENCY: the task began and was known to have ended at those seconds since 1970."""
    started, ended = (int(line) / 1e9 for line in notes.read_text().split())
    assert began < started < ended < known, (began, started, ended, known)
    if notes.name.startswith("turn"):
        figures = {"start_to_process_ms": (started - began) * 1000, "end_to_known_ms": (known - ended) * 1000}
        with Path(os.environ["LATENCY"]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"subject": subject, **figures}) + "\n")
