"""The contract of behaviour on the command line, which is what any other orchestrator runs: a scheduler, a cron job, CI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from behaviour import PATIENCE, PLUGIN, SECRET, TOKEN, BehaviourContract, Call, Ended, Harness, Started

MLCTL = Path(sys.executable).with_name("mlctl")


class CommandLine(Harness):
    """`mlctl run --key KEY`, started again with `--retry` by whoever started it: as a caller with retries does."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.running: list[subprocess.Popen[Any]] = []

    def start(self, call: Call) -> Started:
        return Pipeline(self, call, f"run-{len(self.running)}")


class Pipeline(Started):
    def __init__(self, harness: CommandLine, call: Call, key: str) -> None:
        self.harness, self.call, self.key = harness, call, key
        self.tries = 0
        self.out = harness.folder.parent / f"{key}-{call.job.stem}.log"
        self.process = self.once()

    def once(self, **inputs: str) -> subprocess.Popen[Any]:
        call = self.call
        self.tries += 1
        words = [str(MLCTL), "run", str(call.job), "--json", "--on-interrupt", "cancel", "--target", call.target]
        words += ["--key", self.key, *(["--retry"] if self.tries > 1 else [])]
        for name, value in call.params.items():
            words += ["--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        words += [word for name, value in inputs.items() for word in ("--input", f"{name}={value}")]
        if call.limit:
            words = ["timeout", str(call.limit), *words]
        self.answer = self.out.with_suffix(f".{self.tries}.json")
        with self.out.open("ab") as log, self.answer.open("wb") as answer:
            process = subprocess.Popen(words, stdout=answer, stderr=log, env={
                **os.environ, "PYTHONPATH": str(PLUGIN), TOKEN: SECRET, "MLCTL_HOME": str(self.harness.home),
            })  # fmt: skip
        self.harness.running.append(process)
        return process

    def log(self) -> str:
        return self.out.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self.once()

    def cancel(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> Ended:
        while (code := self.process.wait(PATIENCE)) and self.tries <= self.call.retries:
            self.process = self.once()
        if code:
            return Ended(False, self.log(), self.tries)
        answer = json.loads(self.answer.read_text())
        if self.call.then:
            following = Pipeline.__new__(Pipeline)
            following.harness, following.call, following.key, following.tries = (
                self.harness,
                self.call.then,
                self.key,
                0,
            )
            following.out = self.out.with_name(f"{self.key}-then.log")
            following.process = following.once(before=answer["outputs"]["model"])
            return following.ended()
        return Ended(True, self.log(), self.tries, answer["run"], answer["outputs"], answer["metrics"])

    def rerun(self) -> Started:
        return Pipeline(self.harness, self.call, f"{self.key}-{time.monotonic_ns()}")


class TestBehaviour(BehaviourContract):
    column = "command-line"

    @pytest.fixture
    def harness(self, project: Path, home: Path) -> Iterator[Harness]:
        made = CommandLine(project, home)
        yield made
        for process in made.running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
