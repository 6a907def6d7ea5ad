"""Jobs that take no time and say where they are, and how to wait for what a process does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent

# A job that says where it is: a line in `trace` when it starts; it goes on once `gate` is there (or at once).
SCRIPT = """
echo started >> "$TRACE"
trap 'echo stopped >> "$TRACE"; exit 143' TERM
while [ -n "$GATE" ] && [ ! -e "$GATE" ]; do sleep 0.05; done
printf '{"name": "loss", "value": 0.25}\\n' >> "$MLCTL_METRICS_FILE"
echo "hello from the job"
echo trained > "$MLCTL_OUTPUT_MODEL/model.txt"
"""


def until(answers: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """What `answers()` says once it is true. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := answers()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for {what or answers}")
        time.sleep(0.05)
    return answer


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


class Jobs:
    """Job files of one test, and what their jobs did."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.trace, self.gate = folder / "trace", folder / "gate"
        self.trace.touch()

    def write(self, name: str = "train", script: str = SCRIPT, gated: bool = False, **fields: Any) -> Path:
        """A job file. With `gated`, its job goes on once `open` is called."""
        env = {"TRACE": str(self.trace), "GATE": str(self.gate) if gated else "", **fields.pop("env", {})}
        job = {
            "kind": "train",
            "name": name,
            "command": {"shell": script},
            "outputs": {"model": {}},
            "env": env,
            **fields,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def open(self) -> None:
        self.gate.touch()

    def said(self, word: str) -> int:
        """How often a job wrote `word`."""
        return self.trace.read_text().split().count(word)

    def attempts(self) -> int:
        """How many runs the platform has, looked at past mlctl."""
        return len(list((self.home / "runs").glob("*/[0-9]*")))
