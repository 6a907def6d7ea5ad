"""The decision table, cell by cell, and the plain data it works on: names, URLs, stamps."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlctl import decide as module
from mlctl.decide import Action, Decision, decide
from mlctl.errors import InvalidConfig
from mlctl.runs import Found, Key, Logs, Loss, Metric, Plan, Reason, Result, Run, Stamp, State, Status, Upload

KEY = Key("k", "job")


def found(number: int, state: State, reason: Reason | None = None) -> Found:
    return Found(Run("local", "host", "home", KEY.name(number)), number, Stamp(KEY.hash, ""), Status(state, reason))


FAILED = State.FAILED
REASONS = [None, *Reason]


# --- the table

Row = tuple[Callable[[State, Reason | None, int], bool], Callable[[bool], Action]]
TABLE: dict[str, Row] = {
    "queued, starting or running": (
        lambda state, reason, left: state in (State.QUEUED, State.STARTING, State.RUNNING), lambda again: Action.ADOPT),
    "succeeded": (lambda state, reason, left: state is State.SUCCEEDED, lambda again: Action.ADOPT),
    "stopping": (lambda state, reason, left: state is State.STOPPING, lambda again: Action.WAIT),
    "failed, and never started (its submitter died)": (
        lambda state, reason, left: state is FAILED and reason is Reason.ABANDONED, lambda again: Action.SUBMIT),
    "failed for a reason with budget left in the job's `retry`": (
        lambda state, reason, left: state is FAILED and reason is not Reason.ABANDONED and left > 0,
            lambda again: Action.SUBMIT),
    "failed for another reason, or without budget": (
        lambda state, reason, left: state is FAILED and reason is not Reason.ABANDONED and left <= 0,
        lambda again: Action.SUBMIT if again else Action.REPORT),
    "cancelled": (lambda state, reason, left: state is State.CANCELLED,
        lambda again: Action.SUBMIT if again else Action.REPORT),
}  # fmt: skip
WORDS = {
    "submit attempt 0": {Action.SUBMIT}, "adopt it": {Action.ADOPT},
        "wait for its end, then decide again; never adopt it": {Action.WAIT},
    "submit the next": {Action.SUBMIT}, "report it; asked to try again: submit the next": {Action.REPORT, Action.SUBMIT},
}  # fmt: skip


def test_the_printed_table_is_the_one_that_is_tested() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", module.__doc__ or "", re.MULTILINE)
    assert rows[0] == ("last attempt", "decision")
    printed = dict(rows[1:])
    assert list(printed) == ["none", *TABLE]
    for name, (_, action) in TABLE.items():
        assert {action(False), action(True)} == WORDS[printed[name]], name
    assert {decide([], {}, again).action for again in (False, True)} == WORDS[printed["none"]]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("reason", REASONS)
def test_every_cell(state: State, reason: Reason | None) -> None:
    """Every state, reason, history, budget and wish; each matches one row, and does what that row says."""
    earlier_reasons = [[], [reason], [Reason.OOM], [reason, reason], [Reason.TIMEOUT, reason]]
    for earlier, budget, again in itertools.product(earlier_reasons, (None, 0, 1, 2, 3), (False, True)):
        attempts = [found(number, FAILED, why) for number, why in enumerate([*earlier])]
        last = found(len(attempts), state, reason)
        retry = {} if reason is None or budget is None else {reason.value: budget}
        spent = sum(why is reason for why in earlier)
        left = 0 if reason is None else (budget or 0) - spent
        rows = [action for matches, action in TABLE.values() if matches(state, reason, left)]
        assert len(rows) == 1
        action = rows[0](again)
        wanted = Decision(action, last.number + 1) if action is Action.SUBMIT else Decision(action, found=last)
        assert decide([*attempts, last], retry, again) == wanted
        assert decide([last, *attempts], retry, again) == wanted  # whatever their order


@pytest.mark.parametrize("again", [False, True])
def test_no_attempt(again: bool) -> None:
    assert decide([], {"error": 3}, again) == Decision(Action.SUBMIT, 0)


def test_a_budget_is_spent_by_reason() -> None:
    """preempted twice and out of memory once: each has its own budget, and a success ends it all."""
    history: list[Found] = []
    retry = {"preempted": 2, "oom": 1}
    for reason, action in [
        (Reason.PREEMPTED, Action.SUBMIT), (Reason.OOM, Action.SUBMIT), (Reason.PREEMPTED, Action.SUBMIT),
        (Reason.OOM, Action.REPORT), (Reason.PREEMPTED, Action.REPORT), (Reason.ERROR, Action.REPORT),
    ]:  # fmt: skip
        history.append(found(len(history), FAILED, reason))
        assert decide(history, retry).action is action
    history.append(found(len(history), State.SUCCEEDED))
    assert decide(history, retry, again=True).action is Action.ADOPT


def test_what_was_never_started_costs_no_budget() -> None:
    history = [found(number, FAILED, Reason.ABANDONED) for number in range(5)]
    assert decide(history, {}) == Decision(Action.SUBMIT, 5)
    assert decide([*history, found(5, FAILED, Reason.INFRA)], {"infra": 1}) == Decision(Action.SUBMIT, 6)


def test_a_gap_in_the_numbers_is_not_filled() -> None:
    """Earlier attempts may be forgotten by the platform; the next number still follows the last."""
    assert decide([found(7, FAILED, Reason.INFRA)], {"infra": 1}) == Decision(Action.SUBMIT, 8)


# --- names

_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(_NAMES, st.text(), st.integers(0, 999), st.sampled_from([32, 63]))
@example("a" + "-" * 61 + "b", "k", 0, 63)
@example("a" + "-" * 61 + "b", "k", 999, 32)
@example("0", "", 0, 32)
@example("x", "\udcff", 0, 63)
def test_names_fit_every_platform(job: str, key: str, attempt: int, limit: int) -> None:
    name = Key(key, job).name(attempt, limit)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= limit
    assert re.search(rf"[a-z0-9]-[a-z2-7]{{16}}-{attempt}$", name)
    assert Run("b", "a", "s", name).attempt == attempt
    assert name == Key(key, job).name(attempt, limit)
    assert Key(key, job).attempt(name, limit) == attempt
    assert Key(f"{key}x", job).attempt(name, limit) is None


@given(st.text(max_size=5), st.text(max_size=5))
def test_other_keys_have_other_names(one: str, other: str) -> None:
    assert (Key(one, "j").stem() == Key(other, "j").stem()) == (one == other)


def test_a_name_is_what_it_was() -> None:
    """Names are how runs are found again by whoever comes later, with a later version too."""
    assert Key("nightly", "churn-train").name(0) == "churn-train-g4qrxa3twzlzht4l-0"
    assert Key("nightly", "a" * 63).name(2, 32) == "aaaaaaaaaaa-j3kk5c4gdoyffcgh-2"
    assert Key("nightly", "x").hash == sha256(b"x\0nightly").hexdigest()


# --- URLs

_PART = st.text(min_size=0, max_size=20)


@given(st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True), _PART, _PART, _PART.filter(bool))
@example("local", "host", "home/me/a'; echo foo", "x-0")
@example("local", "host", os.fsdecode(b"tmp/\xff\xfe/x y"), "x-0")
@example("local", "", "", "x")
@example("a", "/?#", "/?#%2F//", "/?#%")
def test_a_run_is_its_url(backend: str, account: str, scope: str, name: str) -> None:
    run = Run(backend, account, scope, name)
    url = str(run)
    assert Run.parse(url) == run
    assert url.isascii()
    assert not re.search(r"\s", url)


@pytest.mark.parametrize(
    "text", ["", "x", "local:", "local://", "local://h", "local://h/", "local://h/n", "Local://h/s/n", "1a://h/s/n",
        "local://h/s/n?x", "local://h/s/n#x",
             "local://h/s/", " local://h/s/n", "file:///x\n"],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"expected a run's URL such as local://host/path/to/home/name-0$"):
        Run.parse(text)


def test_a_url_for_people() -> None:
    run = Run("local", "laptop", "home/me/.local/share/mlctl", "churn-train-k3v9x2m4p7q1w8za-0")
    assert str(run) == "local://laptop/home/me/.local/share/mlctl/churn-train-k3v9x2m4p7q1w8za-0"
    assert run.attempt == 0


# --- stamps, and the rest that is written and read


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.text())
def test_a_stamp_is_one_line_of_json(key: str, digest: str, values: dict[str, str], nonce: str) -> None:
    stamp = Stamp(key, digest, "a=1 b=2", values, nonce)
    text = stamp.to_json()
    assert len(text.splitlines()) == 1
    assert Stamp.of_json(text) == stamp


@pytest.mark.parametrize("text", ["", "x", "{}", "[]", "1", "null", '{"key": "a"}', '"key digest"'])
def test_what_is_no_stamp(text: str) -> None:
    with pytest.raises(ValueError):
        Stamp.of_json(text)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ("", "", []), ("a=1 b=2", "a=1 b=2", []), ("b=2 a=1", "a=1 b=2", []), ("a=1 b=2", "a=1 b=3", ["b"]),
        ("a=1", "a=1 c=3", ["c"]),
        ("a=1 b=2", "a=2 c=3", ["a", "b", "c"]), ("a=1 cut", "a=1", ["cut"]),
    ],
)  # fmt: skip
def test_differs(one: str, other: str, differs: list[str]) -> None:
    assert Stamp("k", "d", one).differs(Stamp("k", "d", other)) == differs


def test_states_and_reasons() -> None:
    assert {state for state in State if state.terminal} == {State.SUCCEEDED, State.FAILED, State.CANCELLED}
    assert {one for one in Reason if one.retryable} == {
        Reason.PREEMPTED,
        Reason.NO_CAPACITY,
        Reason.INFRA,
        Reason.ABANDONED,
    }


def test_plain_data_is_json() -> None:
    plan = Plan("n", "b", "t", {"argv": ["x"]}, (Upload("a", "0", "file:///a"),), (Loss("cpu", "why"),), {"hours": 1})
    assert json.loads(json.dumps(plan.to_json())) == {
        "name": "n", "backend": "b", "target": "t", "request": {"argv": ["x"]}, "losses": [{"field": "cpu", "why": "why"}],
        "uploads": [{"source": "a", "sha256": "0", "address": "file:///a"}], "estimate": {"hours": 1},
    }  # fmt: skip
    assert json.loads(json.dumps(Status(State.FAILED, Reason.OOM).to_json()))["reason"] == "oom"
    assert Result(points=(Metric("a", 1.0), Metric("b", 2.0), Metric("a", 3.0, 1))).metrics == {"a": 3.0, "b": 2.0}
    assert Logs((), "c").cursor == "c"
