"""`mlctl jenkins step`, which the library's steps run on an agent: killed and aborted at every stage, without a pipeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from pipelines import PATIENCE, Counted, Pipelines

from mlctl.runs import State

COUNTING = """
import os, sys, threading
at, number, opened, seen = int(os.environ.pop("AT")), int(os.environ.pop("SIGNAL")), os.environ.pop("OPENED"), []
OURS = tuple(f"/{name}" for name in ("lifecycle.py", "drive.py", "stage.py", "ledger.py", "step.py", "report.py", "local/"))
def count(frame, event, arg):
    code = frame.f_code
    if event == "call" and "mlctl" in code.co_filename and any(part in code.co_filename for part in OURS) and code not in seen:
        seen.append(code)
        if code.co_name == "_each" and opened:
            open(opened, "w").close()
        if len(seen) == at:
            os.kill(os.getpid(), number)
from mlctl.cli import run
import mlctl_jenkins.step, mlctl.backends.local
threading.setprofile(count)
sys.setprofile(count)
code = run(["jenkins", "step"])
sys.setprofile(None)
print("FUNCTIONS", [*(code.co_name for code in seen), "_each"].index("_each"), len(seen))
sys.exit(code)
"""
"""The command, which sends itself a signal as it enters a certain function of its own for the first time: a moment that
neither the machine's load nor the number of polls moves. Its job may end once the command has seen it run, and not before: or
a call that finds the end at its first look would enter fewer functions than one that waits for it."""


class Steps:
    """Calls of the step; each answers in a folder of its own."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.at, self.started = pipelines.at / "calls", 0

    def start(
        self, job: Counted, key: str = "k", at: int = 0, number: int = 0, endless: bool = False, **call: Any
    ) -> subprocess.Popen[str]:
        """In its function number `at` the process sends itself the signal `number`; never, where 0. `endless`: no job ends."""
        self.started += 1
        asked = {"folder": str(self.at / str(self.started)), "key": key, **call}
        request = json.dumps({"call": asked, "options": {"job": str(job.path)}})
        opened = "" if endless else str(job.go)
        env = {**os.environ, "MLCTL_STEP": request, "AT": str(at), "SIGNAL": str(int(number)), "OPENED": opened}
        return subprocess.Popen(
            [sys.executable, "-c", COUNTING], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *args: Any, **more: Any) -> tuple[int, str]:
        process = self.start(*args, **more)
        out, _ = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out, out
        return process.returncode, out

    def answer(self) -> dict[str, Any]:
        """What the last call answered."""
        found: dict[str, Any] = json.loads((self.at / str(self.started) / "answer.json").read_text())
        return found


@pytest.fixture
def steps(pipelines: Pipelines) -> Steps:
    return Steps(pipelines)


@dataclass(frozen=True)
class Moments:
    """`followed`: of how many functions a call has entered the first when it first sees its run's status; `all`: at its end."""

    followed: int
    all: int

    def spread(self, count: int, first: int, last: int) -> list[int]:
        return sorted({first + number * (last - first) // (count - 1) for number in range(count)})


@pytest.fixture
def moments(steps: Steps, pipelines: Pipelines) -> Moments:
    code, out = steps.run(Counted(pipelines, name="measured"))
    assert code == 0, out
    return Moments(*map(int, out.split()[-2:]))


def test_kill_at_every_stage(steps: Steps, pipelines: Pipelines, moments: Moments) -> None:
    """`kill -9` of the step's process, from its first function to its last, and the retry: one start, its true end."""
    seen = set()
    for at in moments.spread(12, 1, moments.all):
        job = Counted(pipelines, name=f"job{at}")
        code, _ = steps.run(job, at=at, number=signal.SIGKILL)
        seen.add((code, len(job.attempts("k"))))
        code, out = steps.run(job, retry=True)
        assert (code, steps.answer()["result"]["state"], job.count) == (0, "succeeded", 1), (at, out)
    assert seen == {(-9, 0), (-9, 1)}


def test_abort_at_every_stage(steps: Steps, pipelines: Pipelines, moments: Moments) -> None:
    """SIGTERM at any moment leaves nothing running, and never ends with 0, for Jenkins would go on as after a success."""
    endless, short = moments.spread(10, 1, moments.followed), moments.spread(4, moments.followed + 2, moments.all)
    seen = set()
    for at in endless + short:
        job = Counted(pipelines, name=f"job{at}")
        code, out = steps.run(job, at=at, number=signal.SIGTERM, endless=at in endless)
        found = [one.status.state for one in job.attempts("k")]
        assert code != 0 and len(found) <= 1 and all(state.terminal for state in found), (at, code, found, out)
        seen.add(tuple(found))
    assert seen == {(), (State.CANCELLED,), (State.SUCCEEDED,)}
