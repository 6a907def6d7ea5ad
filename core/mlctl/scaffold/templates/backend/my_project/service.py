"""Where your platform's API is: a toy that runs processes for as long as this one lives. Replace it by your SDK."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class NameTaken(Exception):
    """409."""


class Unknown(Exception):
    """404."""


@dataclass
class Record:
    """What the service has of a run: its tags are ours to fill."""

    folder: Path
    process: subprocess.Popen[bytes]
    tags: dict[str, str]
    stopped: bool = False

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    @property
    def state(self) -> str:
        """RUNNING, STOPPING, COMPLETED, FAILED or STOPPED."""
        if self.exit_code is None:
            return "STOPPING" if self.stopped else "RUNNING"
        return "STOPPED" if self.stopped else "COMPLETED" if self.exit_code == 0 else "FAILED"

    def log_lines(self) -> list[str]:
        """What the job printed so far."""
        return (self.folder / "log").read_text(errors="replace").splitlines()

    def metric_lines(self) -> list[str]:
        """What the job wrote to its metrics file."""
        path = self.folder / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []


class Service:
    """Runs by name. The service is the platform: every client of one folder sees the same runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.records: dict[str, Record] = {}

    @staticmethod
    @cache
    def at(folder: Path) -> Service:
        """The service of that folder."""
        return Service(folder)

    def create(self, name: str, argv: list[str], env: dict[str, str], folders: list[str], params: str, tags: dict[str, str]) -> None:
        """Takes the name and starts the process. Raises NameTaken."""
        with self.lock:
            if name in self.records:
                raise NameTaken(name)
            at = self.folder / name
            for path in (at, *folders):
                Path(path).mkdir(parents=True, exist_ok=True)
            (at / "params.json").write_text(params)
            with (at / "log").open("wb") as log:
                process = subprocess.Popen(
                    argv, env=env, cwd=at, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            self.records[name] = Record(at, process, tags)

    def describe(self, name: str) -> Record:
        """Raises Unknown."""
        with self.lock:
            if name not in self.records:
                raise Unknown(name)
            return self.records[name]

    def names(self) -> list[str]:
        """All of them."""
        with self.lock:
            return sorted(self.records)

    def stop(self, name: str) -> None:
        """Ends the process and what it started; does nothing where it has ended."""
        record = self.describe(name)
        if record.exit_code is None:
            record.stopped = True
            os.killpg(record.process.pid, signal.SIGTERM)
