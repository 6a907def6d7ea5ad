"""One call's way through the lifecycle, on the local platform: what it adopts, replaces, retries and gives up."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlctl
from mlctl import api, lifecycle
from mlctl.backends.local import folder
from mlctl.errors import Interrupted, InvalidJob, Unavailable
from mlctl.lifecycle import Execution, Outcome
from mlctl.policy import admit
from mlctl.runs import Reason, Stamp, State

PATIENCE = 30.0


def execution(script: str, key: str = "k", grace: int = 1, **options: Any) -> Execution:
    """A job that is a shell script, under a key."""
    fields = {name: options.pop(name) for name in ("retry", "env", "timeout") if name in options}
    job = {"kind": "process", "name": "life", "command": {"shell": script}, **fields}
    return api.execution(job, key=key, settings={"grace": grace}, **options)


def ended(made: Execution, outcome: Outcome | None = None) -> Outcome:
    found = made.wait(outcome or made.start(), PATIENCE)
    assert found.status is not None, "it did not end"
    return found


def test_retry_is_spent_by_reason_and_counted_from_the_attempts(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; exit 3"
    found = ended(execution(script, retry={"error": 2}))
    assert (found.run.attempt, found.status and found.status.reason) == (2, Reason.ERROR)
    assert count.read_text().count("x") == 3
    again = execution(script, retry={"error": 2}).start()
    assert (again.made, again.run) == (False, found.run)
    assert count.read_text().count("x") == 3


def test_again_starts_one_more_and_no_two(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; exit 3"
    ended(execution(script))
    made = execution(script)
    made.again = True
    assert ended(made).run.attempt == 1
    assert count.read_text().count("x") == 2


def test_success_is_adopted_even_when_asked_again() -> None:
    first = ended(execution("true"))
    made = execution("true")
    made.again = True
    again = made.start()
    assert (again.made, again.run) == (False, first.run)


@pytest.mark.parametrize("script", ["sleep 60", "true", "exit 3"])
def test_another_job_under_the_key_fails_adopts_or_replaces(script: str) -> None:
    first = execution(script)
    run = first.start().run
    if script != "sleep 60":
        ended(first, Outcome(run, True))
    with pytest.raises(InvalidJob, match=r"key 'k' names .* command changed"):
        execution("echo other").start()
    assert execution("echo other", on_change="adopt").start().run == run
    replaced = ended(execution("echo other", on_change="replace"))
    assert (replaced.run.attempt, replaced.status and replaced.status.state) == (1, State.SUCCEEDED)
    before = mlctl.reach(str(run)).status()
    assert before.state is {"sleep 60": State.CANCELLED, "true": State.SUCCEEDED, "exit 3": State.FAILED}[script]
    assert execution("echo other").start().run == replaced.run


def test_a_late_cancel_by_somebody_else_is_followed_by_the_next_attempt_once(tmp_path: Path) -> None:
    go, ready = tmp_path / "go", tmp_path / "ready"
    script = f"[ -e {go} ] || {{ touch {ready}; sleep 60; }}"
    owner = execution(script)
    run = owner.start().run
    deadline = time.monotonic() + PATIENCE
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    waiter = execution(script)
    found = waiter.start()
    assert (found.made, found.run) == (False, run)
    seen: list[Outcome] = []
    thread = threading.Thread(target=lambda: seen.append(ended(waiter, found)))
    thread.start()
    go.touch()
    lifecycle.cancel(owner.backend, run, PATIENCE)
    thread.join(PATIENCE)
    assert [(one.run.attempt, one.made, one.status and one.status.state) for one in seen] == [
        (1, True, State.SUCCEEDED)
    ]


def test_the_cancel_of_ones_own_run_is_its_end() -> None:
    made = execution("sleep 60")
    outcome = made.start()
    lifecycle.cancel(made.backend, outcome.run, PATIENCE)
    assert ended(made, outcome).run == outcome.run
    reported = execution("sleep 60").start()
    assert (reported.run, reported.status and reported.status.state) == (outcome.run, State.CANCELLED)


def test_a_stop_before_the_submit_starts_nothing() -> None:
    made = execution("sleep 60")
    made.stop()
    with pytest.raises(Interrupted, match="nothing was started"):
        made.start()
    assert not made.backend.find(made.key)


@pytest.mark.parametrize("left", [2, 1])
def test_a_stop_during_an_upload_ends_the_uploads_and_starts_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """At the last upload too: a submit that would be cancelled at once is not made."""
    (project / "code").mkdir()
    (project / "code/train.py").write_text("")
    job = {"kind": "process", "name": "life", "code": str(project / "code"), "command": ["sleep", "60"]}
    made = api.execution(job, key="k")
    plan = made._admitted(0)
    (upload,) = plan.plan.uploads
    uploads = tuple(replace(upload, address=f"{upload.address}-{number}") for number in range(left))
    made._plans[0] = admit(made.job, replace(plan.plan, uploads=uploads))
    put: list[Any] = []

    def stopped(one: Any) -> None:
        put.append(one)
        made.stop()

    monkeypatch.setattr(made.backend, "put", stopped)
    with pytest.raises(Interrupted, match="nothing was started"):
        made.start()
    assert len(put) == 1
    assert not made.backend.find(made.key)


def test_a_stop_before_the_next_attempt_leaves_the_one_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made = execution("exit 3", retry={"error": 1})
    outcome = made.start()
    find = made.backend.find

    def stopped(*args: Any) -> Any:
        made.stop()
        return find(*args)

    monkeypatch.setattr(made.backend, "find", stopped)
    found = ended(made, outcome)
    assert (found.run, found.status and found.status.state) == (outcome.run, State.FAILED)
    assert len(find(made.key)) == 1


def test_a_stop_during_the_submit_cancels_what_was_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = execution("sleep 60")
    submit = made.backend.submit

    def stopped(*args: Any) -> Any:
        made.stop()
        return submit(*args)

    monkeypatch.setattr(made.backend, "submit", stopped)
    found = ended(made)
    assert found.status
    assert found.status.state is State.CANCELLED


def test_an_ended_run_that_the_caller_does_not_accept_is_followed_by_the_next() -> None:
    def mine(stamp: Stamp) -> bool:
        return stamp.values.get("round") == "2"

    first = ended(execution("true", values={"round": "1"}))
    second = ended(execution("true", values={"round": "2"}, accepts=mine))
    assert (first.run.attempt, second.run.attempt) == (0, 1)
    assert execution("true", values={"round": "2"}, accepts=mine).start().run == second.run
    live = execution("sleep 60", key="other", values={"round": "1"}).start()
    adopted = execution("sleep 60", key="other", values={"round": "2"}, accepts=mine)
    assert adopted.start().run == live.run  # one that goes on is never doubled
    lifecycle.cancel(adopted.backend, live.run, PATIENCE)


def test_attempts_that_never_start_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folder, "SHIM", "exit 70")
        found = ended(execution("true"))
    assert found.status
    assert (found.run.attempt, found.status.reason) == (lifecycle.UNSTARTED - 1, Reason.ABANDONED)
    assert ended(execution("true")).run.attempt == lifecycle.UNSTARTED


def test_another_version_does_not_spend_a_failed_runs_retries() -> None:
    ended(execution("exit 3", retry={"error": 0}))
    failed = execution("exit 3", key="b", retry={"error": 2}).start()
    mlctl.reach(str(failed.run)).ended(PATIENCE)
    with pytest.raises(InvalidJob, match="command changed"):
        execution("exit 4", key="b", retry={"error": 2}).start()
    assert execution("exit 3", key="b", retry={"error": 2}).start().run.attempt == 1


def test_who_was_replaced_does_not_replace_back() -> None:
    first = execution("sleep 60; echo 1", on_change="replace")
    mine = first.start()
    second = execution("sleep 60; echo 2", on_change="replace")
    theirs = second.start()
    assert theirs.run.attempt == 1
    with pytest.raises(InvalidJob, match="another version"):
        first.wait(mine, PATIENCE)
    assert getattr(second.backend.status([theirs.run])[theirs.run], "state", None) in (State.STARTING, State.RUNNING)
    lifecycle.cancel(second.backend, theirs.run, PATIENCE)


def test_a_long_name_is_not_another_jobs() -> None:
    """The name is cut in the run's name; what was cut is in its hash."""
    name = "churn-model-training-for-region-emea-variant"
    one, other = (
        api.execution({"kind": "train", "name": f"{name}-{letter}", "command": ["true"]}, key="k") for letter in "ab"
    )
    assert ended(one).run != ended(other).run


def test_a_start_waits_for_a_stopping_run_only_so_long(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo up; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    held = execution(script, grace=60)
    run = held.start().run
    handle = mlctl.reach(str(run))
    next(line for line in handle.logs(follow=True) if line == "up")
    held.backend.cancel(run)
    with pytest.raises(Unavailable, match="stopping still"):
        execution(script, grace=60).start(timeout=0.2)
    (tmp_path / "go").touch()
    assert handle.ended(PATIENCE)


def test_one_throttled_answer_ends_no_cancel_and_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = mlctl.submit(
        {"kind": "process", "name": "life", "command": {"shell": "echo up; sleep 60"}}, settings={"grace": 1}
    )
    for method in ("status", "cancel", "logs"):
        real, failed = getattr(handle.backend, method), iter([True])

        def throttled(*args: Any, real: Any = real, failed: Any = failed) -> Any:
            if next(failed, False):
                raise Unavailable("429")
            return real(*args)

        monkeypatch.setattr(handle.backend, method, throttled)
    assert next(handle.logs(follow=True)) == "up"
    status = handle.cancel(PATIENCE)
    assert status
    assert status.state is State.CANCELLED


def test_a_bounded_wait_leaves_the_run() -> None:
    handle = mlctl.submit({"kind": "process", "name": "life", "command": ["sleep", "60"]}, settings={"grace": 1})
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="it goes on"):
        handle.wait(0.2)
    assert time.monotonic() - began < PATIENCE
    assert handle.status().state in (State.STARTING, State.RUNNING)
    status = handle.cancel(PATIENCE)
    assert status
    assert status.state is State.CANCELLED


def test_handles_and_plans_show_themselves_in_a_notebook() -> None:
    job = {"kind": "process", "name": "life", "command": ["echo", "<b>"], "resources": {"cpu": 4}}
    handle = mlctl.run(job)
    assert handle.url in handle._repr_html_()
    shown = mlctl.plan(job)._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "not honoured: resources.cpu" in shown
