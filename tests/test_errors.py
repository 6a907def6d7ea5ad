"""The error tree: as its docstring draws it, one line a message, and the same after a pickle."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlctl import errors
from mlctl.errors import MlctlError, RunExists, RunFailed, RunNotFound, Unavailable, did_you_mean, one_line
from mlctl.runs import Reason, Run, State, Status

RUN = Run("local", "host", "home", "churn-train-abcdefghijklmnop-0")
CLASSES = {name: kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)}


def failed(reason: Reason | None, message: str = "", state: State = State.FAILED) -> RunFailed:
    return RunFailed(RUN, Status(state, reason, message))


def test_the_docstring_draws_the_tree() -> None:
    drawn = {}
    parents = {0: "MlctlError"}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ]*)[├└]─ (\w+) .*exit ([\d, ]+)$", line)
        if match:
            depth = len(match[1]) // 3 + 1
            parents[depth] = match[2]
            drawn[match[2]] = (parents[depth - 1], [int(code) for code in match[3].split(", ")])
    for name, kind in CLASSES.items():
        if kind is not MlctlError:
            parent, codes = drawn.pop(name)
            assert kind.__mro__[1].__name__ == parent, name
            if kind is not RunFailed:
                assert [kind.exit_code] == codes, name
            else:
                assert codes == [1, 75, 124, 130]
    assert not drawn


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (None, 1), (Reason.ERROR, 1), (Reason.OOM, 1), (Reason.QUOTA, 1), (Reason.IMAGE, 1), (Reason.PREEMPTED, 75),
        (Reason.NO_CAPACITY, 75), (Reason.INFRA, 75), (Reason.ABANDONED, 75), (Reason.TIMEOUT, 124), (Reason.CANCELLED, 130),
    ],
)  # fmt: skip
def test_exit_code_of_a_failed_run(reason: Reason | None, code: int) -> None:
    assert failed(reason).exit_code == code


def test_every_reason_has_its_exit_code_tested() -> None:
    cases = next(mark for mark in test_exit_code_of_a_failed_run.pytestmark if mark.name == "parametrize").args[1]  # type: ignore[attr-defined]
    assert {reason for reason, _ in cases} == {None, *Reason}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (failed(Reason.OOM, "killed"), "churn-train-abcdefghijklmnop-0: failed (oom): killed"),
        (failed(None), "churn-train-abcdefghijklmnop-0: failed"),
        (failed(Reason.CANCELLED, "", State.CANCELLED), "churn-train-abcdefghijklmnop-0: cancelled"),
        (failed(Reason.CANCELLED, "cancelled", State.CANCELLED), "churn-train-abcdefghijklmnop-0: cancelled"),
        (
            failed(Reason.ERROR, "line one\nline two"),
            "churn-train-abcdefghijklmnop-0: failed (error): line one line two",
        ),
        (RunExists(RUN), "local://host/home/churn-train-abcdefghijklmnop-0: this attempt exists already"),
        (RunNotFound("a\nb\x1b[31m\x00\u2028"), r"a\nb\x1b[31m\x00\u2028"),
        (Unavailable("naïve 日本 'x' \\n"), "naïve 日本 'x' \\n"),
    ],
)
def test_message_and_pickle(error: MlctlError, text: str) -> None:
    for one in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (type(one), str(one), vars(one)) == (type(error), text, vars(error))


@given(st.text(st.characters(exclude_categories=[])))
def test_any_message_is_one_printable_line(text: str) -> None:
    shown = str(MlctlError(text))
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert str(MlctlError(shown)) == shown


def deep() -> list[object]:
    made: list[object] = []
    for _ in range(100_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"), (True, "true"), (False, "false"), (1, "1"), ("a\nb", r"'a\nb'"), ("", "''"),
        ("x" * 100, "'" + "x" * 78 + "…"), (deep(), "a list nested too deeply"),
    ],
    ids=lambda value: repr(value)[:12] if not isinstance(value, list) else "deep",
)  # fmt: skip
def test_one_line(value: object, text: str) -> None:
    assert one_line(value) == text


def test_did_you_mean() -> None:
    assert did_you_mean("comand", ["command", "code"]) == "; did you mean 'command'?"
    assert did_you_mean("xyz", ["command", "code"]) == ""


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EACCES, errors.Unauthorized, 77),
        (errno.EROFS, errors.Unauthorized, 77),
        (errno.ENOSPC, Unavailable, 75),
        (errno.EIO, Unavailable, 75),
    ],
)
def test_what_the_system_refuses_is_worth_another_try_or_not(number: int, kind: type[MlctlError], code: int) -> None:
    error = errors.refused("s3://bucket/a", OSError(number, os.strerror(number), "/tmp/draft"))
    assert (type(error), error.exit_code, str(error)) == (kind, code, f"s3://bucket/a: {os.strerror(number)}")
