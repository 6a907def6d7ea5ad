"""`kill -9` of the caller at each of its steps: the job is started once all the same, and its true end is found.

A process that has everything imported forks one caller for each step. The caller counts its own audit events (open,
os.mkdir, os.rename, os.posix_spawn, fcntl.flock, ...), and kills itself before the one of its number, or is killed by
an alarm at some moment between two; another then asks again, under the same key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = r'''
import json, os, shutil, signal, sys
from pathlib import Path

import mlctl
from mlctl import api

work, spec, first, last, alarm = Path(sys.argv[1]), json.loads(sys.argv[2]), *map(int, sys.argv[3:5]), float(sys.argv[5])
SKIPPED = ("import", "compile", "exec", "marshal.", "object.", "sys.", "code.", "cpython.", "builtins.", "gc.")


def job(name):
    return {**spec, "env": {"COUNT": str(work / f"{name}.starts"), "GO": str(work / f"{name}.go")}}


def call(name):
    """[the state, the reason, the exit code, the metrics, the attempt in hand], of a whole run."""
    handle = mlctl.submit(job(name), key=name)
    status = handle.ended(30)
    reason = status.reason and status.reason.value
    return [status.state.value, reason, status.exit_code, handle.result().metrics, handle.run.attempt]


def forked(action):
    """What `action` returned in a process of its own, and the signal that killed it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = None
        try:
            answer = action()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        text = stream.read()
    ended = os.waitpid(pid, 0)[1]
    return json.loads(text or b"null"), os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0


def killing(number, action):
    """`action`, killed before its event of that number; or, by an alarm, after so many times `alarm` seconds."""
    if alarm:
        signal.setitimer(signal.ITIMER_REAL, (number + 1) * alarm)  # at its default, SIGALRM ends a process at once
        return action()
    left = number

    def count(event, args):
        nonlocal left
        if not event.startswith(SKIPPED):
            left -= 1
            if left == -1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    return action()


def seen(name):
    """What the platform has under the key: `none`, or the state and reason of each attempt."""
    execution = api.execution(job(name), key=name)
    return [(one.status.reason or one.status.state).value for one in execution.backend.find(execution.key)] or ["none"]


(work / "warm-up.go").touch()
call("warm-up")  # so that no import is left for the steps
answers = []
for number in range(first, last):
    name = f"n{number}"
    shutil.rmtree(Path(os.environ["MLCTL_HOME"], "packages"))
    answer, killed = forked(lambda: killing(number, lambda: call(name)))
    found, _ = forked(lambda: seen(name))
    (work / f"{name}.go").touch()
    if killed:
        answer, _ = forked(lambda: call(name))
    attempts, _ = forked(lambda: seen(name))
    starts = work / f"{name}.starts"
    count = starts.read_text().count("\n") if starts.exists() else 0
    answers.append({"killed": killed, "found": found, "answer": answer, "attempts": attempts, "starts": count})
    if not killed:
        break
print(json.dumps(answers))
'''

COUNTED = 'echo start >> "$COUNT"; echo \'{"name": "m", "value": 4}\' > "$MLCTL_METRICS_FILE"; '


def kills(
    tmp_path: Path, command: str, first: int = 0, last: int = 5000, alarm: float = 0, **fields: Any
) -> list[dict[str, Any]]:
    """For each step from `first` to `last`, or to the end: what a killed caller left, what the next one found, how
    often the job was started."""
    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    for name in ("main.py", "package/__init__.py"):
        (code / name).write_text("pass\n")
    (tmp_path / "work").mkdir()
    spec = {"kind": "process", "name": "t", "code": str(code), "command": {"shell": COUNTED + command}, **fields}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", DRIVER, tmp_path / "work", json.dumps(spec), first, last, alarm]
    done = subprocess.run(
        list(map(str, words)), env=env, text=True, capture_output=True, check=False, timeout=280, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    assert [one["killed"] > 0 for one in answers[:-1]] == [True] * (len(answers) - 1)
    return answers


SUCCESS = ("exit 0", ["succeeded", None, 0, {"m": 4.0}])
FAILURE = ("exit 3", ["failed", "error", 3, {"m": 4.0}])


def check(answers: list[dict[str, Any]], end: list[Any]) -> None:
    """One start, its true end, and at most one attempt more, that was never started."""
    for one in answers:
        assert one["starts"] == 1, one
        assert one["answer"] == [*end, len(one["attempts"]) - 1], one
        assert one["attempts"] in ([end[1] or end[0]], ["abandoned", end[1] or end[0]]), one


@pytest.mark.parametrize(("command", "end"), [SUCCESS, FAILURE])
def test_each_step(tmp_path: Path, command: str, end: list[Any]) -> None:
    answers = kills(tmp_path, command)
    assert len(answers) > 30 and not answers[-1]["killed"]
    check(answers, end)
    assert {one["found"][0] for one in answers} >= {"none", "abandoned", end[1] or end[0]}


@pytest.mark.parametrize(("command", "end"), [SUCCESS, FAILURE])
def test_each_quarter_of_a_millisecond(tmp_path: Path, command: str, end: list[Any]) -> None:
    answers = kills(tmp_path, command, alarm=0.000_25)
    check(answers, end)
    assert len(answers) > 10


def test_each_step_of_a_wait(tmp_path: Path) -> None:
    """The job goes on without its waiter; the next call adopts it, and reports how it really ended."""
    answers = kills(tmp_path, 'until [ -e "$GO" ]; do sleep 0.01; done; exit 5', first=33, last=58)
    assert len(answers) == 25 and all(one["killed"] for one in answers)
    check(answers, ["failed", "error", 5, {"m": 4.0}])
    assert {tuple(one["found"]) for one in answers[10:]} - {("starting",)} == {("running",)}  # a shim may need a moment


def test_each_step_of_a_retry(tmp_path: Path) -> None:
    """The budget is counted from the record: no step makes a third start of two."""
    answers = kills(tmp_path, "exit 3", retry={"error": 1})
    assert len(answers) > 60 and not answers[-1]["killed"]
    for one in answers:
        started = [reason for reason in one["attempts"] if reason != "abandoned"]
        assert started == ["error"] * 2 and one["starts"] == 2, one
        assert one["answer"] == ["failed", "error", 3, {"m": 4.0}, len(one["attempts"]) - 1], one
    assert {tuple(one["found"]) for one in answers} >= {("none",), ("abandoned",), ("error",), ("error", "error")}


def test_a_retry_stops_at_the_first_success(tmp_path: Path) -> None:
    answers = kills(tmp_path, '[ "$(wc -l < "$COUNT")" = 2 ]', retry={"error": 5}, alarm=0.001)
    for one in answers:
        assert one["starts"] == 2 and one["answer"][0] == "succeeded", one
