"""A job driven by a thread: whatever interrupts its caller tears nothing; secrets stay out of what is shown."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlctl import api, masking
from mlctl.backends.local import Local
from mlctl.drive import Drive
from mlctl.errors import Interrupted, InvalidJob, RunFailed, Unavailable
from mlctl.lifecycle import Outcome
from mlctl.runs import State

WAITS = 'echo ready; while [ ! -e "$GATE" ]; do sleep 0.02; done'


class Driven:
    """A job in a project, and what was said of it."""

    def __init__(self, project: Path) -> None:
        self.project, self.gate = project, project / "gate"
        self.lines: list[str] = []
        self.seen: list[Outcome] = []

    def start(
        self, script: str = WAITS, key: str = "k", options: Mapping[str, Any] | None = None, **fields: Any
    ) -> Drive:
        """`options` are Drive's own, `fields` the job's."""
        env = {"GATE": str(self.gate), **fields.pop("env", {})}
        job = {"kind": "train", "name": "job", "command": {"shell": script}, "env": env, **fields}
        (self.project / "job.yaml").write_text(json.dumps(job))
        make = lambda: api.execution(self.project / "job.yaml", key=key, retry=True)  # noqa: E731
        return Drive(make, self.lines.append, see=self.seen.append, **(options or {}))

    def attempts(self) -> int:
        return len(list(Path(api.configuration.home(), "runs").glob("*/[0-9]*")))


@pytest.fixture
def driven(project: Path) -> Driven:
    return Driven(project)


@pytest.fixture
def slow_submit(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Submits say that they began, and go on once they may."""
    began, may = threading.Event(), threading.Event()
    submit: Callable[..., Any] = Local.submit

    def slowly(*args: Any) -> Any:
        began.set()
        assert may.wait(60)
        return submit(*args)

    monkeypatch.setattr(Local, "submit", slowly)
    return began, may


def test_to_the_end(driven: Driven) -> None:
    """Every line once, the outcome so far at the start and with every status, and the end."""
    driven.gate.touch()
    drive = driven.start("echo one; echo two")
    outcome = drive.succeeded()
    assert driven.lines == ["one", "two"]
    assert driven.seen[0].status is None and driven.seen[0].made
    assert driven.seen[-1] == outcome and outcome.status and outcome.status.state is State.SUCCEEDED


def test_the_jobs_own_retry(driven: Driven) -> None:
    """A later attempt's log follows the earlier one's, and is this call's own."""
    drive = driven.start('echo "attempt ${MLCTL_RUN##*-}"; [ "${MLCTL_RUN##*-}" = 1 ]', retry={"error": 1})
    assert drive.succeeded().run.attempt == 1
    assert driven.lines == ["attempt 0", "attempt 1"] and driven.seen[-1].made


def test_stop(driven: Driven) -> None:
    """A running job is cancelled, and its end seen."""
    drive = driven.start()
    drive.started.result(60)
    outcome = drive.stop(60)
    assert outcome.status and outcome.status.state is State.CANCELLED
    with pytest.raises(RunFailed, match="cancelled"):
        drive.succeeded()
    assert drive.stop(60) == outcome  # twice is once


def test_stop_while_submitting(driven: Driven, slow_submit: tuple[threading.Event, threading.Event]) -> None:
    """The submit comes first; what it started is ended."""
    began, may = slow_submit
    drive = driven.start()
    assert began.wait(60)
    with pytest.raises(Unavailable, match="was asked to end, and has not yet"):
        drive.stop(0.05)
    may.set()
    outcome = drive.stop(60)
    assert outcome.status and outcome.status.state is State.CANCELLED and driven.attempts() == 1


def test_stop_before_anything(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started after a stop."""
    began, may = threading.Event(), threading.Event()
    resolve: Callable[..., Any] = Local.resolve

    def slowly(*args: Any) -> Any:
        began.set()
        assert may.wait(60)
        return resolve(*args)

    monkeypatch.setattr(Local, "resolve", slowly)
    drive = driven.start()
    assert began.wait(60)
    drive.call_off()
    may.set()
    with pytest.raises(Interrupted, match="nothing was started"):
        drive.stop(60)
    assert driven.attempts() == 0


def test_interrupted_when_nobody_has_it_yet(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes while the thread starts leaves no job that nobody would end."""
    may, begun = threading.Event(), []
    start, resolve = threading.Thread.start, Local.resolve
    monkeypatch.setattr(Local, "resolve", lambda *args: (may.wait(60), resolve(*args))[1])

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driven.start("true")
    may.set()
    begun[0].join(60)
    assert not begun[0].is_alive() and driven.attempts() == 0


def test_stop_of_a_run_that_was_found(driven: Driven) -> None:
    """Whoever found the run may end it, and starts no other."""
    first = driven.start()
    first.started.result(60)
    second = driven.start()
    assert not second.started.result(60).made
    outcome = second.stop(60)
    assert outcome.status and outcome.status.state is State.CANCELLED and driven.attempts() == 1
    first.call_off()  # else the first one's waiter, which made the run, reports the cancel
    with pytest.raises(RunFailed):
        first.succeeded()


def test_an_interrupted_wait_leaves_the_run(driven: Driven) -> None:
    """The job goes on, and can be waited for again."""
    drive = driven.start()
    drive.started.result(60)
    with pytest.raises(TimeoutError, match=r"still going after 0\.05 s; it goes on"):
        drive.wait(0.05)
    driven.gate.touch()
    drive.succeeded()


def test_a_wait_in_parts(driven: Driven) -> None:
    """Where its patience is over the run goes on, and the next drive goes on from there: run, log and all."""
    script = "echo one; " + WAITS + "; echo two"
    first = driven.start(script, options={"patience": 5})
    outcome = first.wait(60)
    assert outcome.status is None and driven.lines == ["one", "ready"]
    driven.gate.touch()
    second = driven.start(script, key="another", options={"found": outcome, "cursor": first.cursor})
    assert second.succeeded().run == outcome.run and driven.attempts() == 1
    assert driven.lines == ["one", "ready", "two"]


def test_a_part_that_begins_in_an_outage(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    """The run was there: it is asked for again. Nor does its success need a job file that is right still."""
    outcome = driven.start(options={"patience": 0}).wait(60)
    stem = Path(api.configuration.home(), "runs", outcome.run.name.rpartition("-")[0])
    deadline = time.monotonic() + 60
    while "ready" not in "".join(log.read_text() for log in stem.glob("0/log")):  # and needs the name no more
        assert time.monotonic() < deadline
        time.sleep(0.01)
    away = stem.rename(stem.with_name("away"))
    stem.symlink_to(driven.project / "job.yaml")  # a disk's trouble, and no missing run
    second = driven.start(params={"lr": {"type": "number"}}, options={"found": outcome})
    deadline = time.monotonic() + 60
    while "trying again" not in caplog.text:
        assert time.monotonic() < deadline and not second.done.done()
        time.sleep(0.01)
    link = stem.with_name("link")
    link.symlink_to(away)
    link.replace(stem)  # at once: it is never missing
    driven.gate.touch()
    assert second.succeeded().run == outcome.run


def test_the_jobs_own_retry_after_a_part(driven: Driven) -> None:
    """What ended badly between two parts is followed by the next attempt, as in one."""
    script = WAITS + '; [ "${MLCTL_RUN##*-}" = 1 ]'
    outcome = driven.start(script, retry={"error": 1}, options={"patience": 0}).wait(60)
    driven.gate.touch()
    after = driven.start(script, retry={"error": 1}, options={"found": outcome}).succeeded()
    assert after.run.attempt == 1 and after.made and driven.attempts() == 2


def test_stop_after_patience(driven: Driven) -> None:
    """Nobody follows the run any more: it is ended all the same."""
    drive = driven.start(options={"patience": 0})
    assert drive.wait(60).status is None
    outcome = drive.stop(60)
    assert outcome.status and outcome.status.state is State.CANCELLED


def test_bad_input_is_the_waiters(driven: Driven) -> None:
    """What is wrong with the job is raised by every way to wait."""
    drive = driven.start(params={"lr": {"type": "number"}})
    for call in (drive.wait, drive.succeeded, lambda: drive.stop(60)):
        with pytest.raises(InvalidJob, match="has no value"):
            call()


def test_secrets_are_masked(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the log and in the error."""
    monkeypatch.setenv("TOKEN", "very-secret")
    drive = driven.start('echo "it is $TOKEN"; exit 3', secrets=["TOKEN"])
    with pytest.raises(RunFailed):
        drive.succeeded()
    assert driven.lines == ["it is ***"]


def test_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longest first, each line of a secret, nothing too short; what can't be read is passed over."""
    (tmp_path / "key").write_text("first line\nsecond line\n")
    monkeypatch.setenv("A", "abcd")
    monkeypatch.setenv("B", "abcdef")
    monkeypatch.setenv("C", "xy")
    sources = {"FILE": f"file:{tmp_path / 'key'}", "GONE": f"file:{tmp_path / 'gone'}", "FAR": "aws-sm:x"}
    hide = masking.mask(["A", "B", "C", "FILE", "GONE", "FAR", "UNSET"], {"secrets": sources})
    assert hide("abcdef abcd xy: first line, second line") == "*** *** xy: ***, ***"
    assert masking.values(["B", "FILE", "GONE", "UNSET"], {"secrets": sources}) == [
        "second line",
        "first line",
        "abcdef",
    ]
