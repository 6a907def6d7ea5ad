"""What KFP says of a run, and what that is called here. A state that is not in these tables is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, Run, State, Status
from mlctl.units import moment

from .launch import END

__all__ = ["chosen", "end_of", "failure", "state_of", "status_of", "time_of", "untold"]

STATES: Mapping[str, State] = {
    "": State.QUEUED,  # made, and not seen yet by what runs it
    "RUNTIME_STATE_UNSPECIFIED": State.QUEUED,
    "PENDING": State.QUEUED,
    "PAUSED": State.QUEUED,
    "RUNNING": State.RUNNING,
    "CANCELING": State.STOPPING,
    "SUCCEEDED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "CANCELED": State.CANCELLED,
}

_LATE = 60  # seconds

_FAILURES = (  # the first that matches what KFP says of a run whose job never told its end
    (r"ImagePull|ErrImage|InvalidImageName|pull(ing)? image", Reason.IMAGE),
    (r"OOMKilled|[Oo]ut of memory", Reason.OOM),
    (r"[Ee]vict|[Pp]reempt|node (was )?(shutdown|lost|drained)", Reason.PREEMPTED),
    (r"exceeded quota", Reason.QUOTA),
    (r"Unschedulable|Insufficient", Reason.NO_CAPACITY),
    (r"\bpod deleted\b", Reason.INFRA),
)
_TERMINATED = re.compile(r"\bterminated\b|[Dd]eadline|Max duration|[Ss]hutdown with strategy|Stopped with strategy")
"""KFP terminates by a deadline of no seconds, and mlctl sets none: so a deadline in its words is that of somebody who cancelled."""


def chosen(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the runs of one name, the one that counts: the oldest, whoever looks."""
    return min(runs, key=lambda run: (str(run.get("created_at", "")), str(run.get("run_id", ""))))


def state_of(run: Run, found: Mapping[str, Any]) -> State:
    """Raises MlctlError for a state that this version doesn't know."""
    native = str(found.get("state") or "")
    if native not in STATES:
        raise MlctlError(f"{run}: KFP says {native}, which this version of mlctl doesn't know")
    state = STATES[native]
    history = [str(each.get("state")) for each in found.get("state_history") or []]
    if state is State.FAILED and "CANCELING" in history:  # what a terminated run's workflow ends as
        return State.CANCELLED
    return State.CANCELLED if state is State.STOPPING and time_of(found.get("finished_at")) else state


def status_of(run: Run, found: Mapping[str, Any], host: str) -> Status:
    """What a run's record tells; of one that failed, not why."""
    state = state_of(run, found)
    known: dict[str, Any] = {"link": f"{host}/#/runs/details/{found.get('run_id', '')}"}
    if state is State.RUNNING or state.terminal:
        history = found.get("state_history") or []
        began = next((each.get("update_time") for each in history if each.get("state") == "RUNNING"), None)
        known["started"] = time_of(began or found.get("created_at"))
    if state.terminal:
        known["finished"] = time_of(found.get("finished_at"))
    if state is State.CANCELLED:
        return Status(state, Reason.CANCELLED, "cancelled", **known)
    if state is State.SUCCEEDED:
        return Status(state, exit_code=0, **known)
    return Status(state, message=str(found.get("state") or "") if state is State.QUEUED else "", **known)


def end_of(log: str) -> tuple[int, str, str] | None:
    """The exit code, the reason and the words of the last line of a log that tells an end."""
    found = re.findall(rf"{re.escape(END)}(\d+) (ok|error|oom|timeout|image|infra|stopped) (.*)", log)
    return (int(found[-1][0]), found[-1][1], found[-1][2]) if found else None


def failure(status: Status, found: Mapping[str, Any], log: str | None) -> Status:
    """The status of a run that failed, with why: by its log, or where that has no word of it, None or other, by KFP's own."""
    known: dict[str, Any] = {"started": status.started, "finished": status.finished, "link": status.link}
    code, reason, words = end_of(log or "") or (None, "", "")
    said = _said(found)
    why = next((each for pattern, each in _FAILURES if re.search(pattern, said)), None)
    if reason in ("", "stopped") and why is None and (reason or _TERMINATED.search(said)):
        return Status(State.CANCELLED, Reason.CANCELLED, words or said, **known)
    if reason in ("error", "oom", "timeout", "image", "infra"):
        return Status(State.FAILED, Reason(reason), words, code if reason not in ("image", "infra") else None, **known)
    if why:
        return Status(State.FAILED, why, said, code, **known)
    if reason == "ok":
        said = "the job succeeded, and what KFP does after it failed"
    elif log is None:
        return Status(State.FAILED, Reason.ERROR, said or "failed; KFP has no log of it that would tell why", **known)
    return Status(State.FAILED, Reason.INFRA, said or "its pod ended before the job did", code, **known)


def untold(found: Mapping[str, Any], now: datetime) -> bool:
    """Whether a run ended just now, and its tasks, which KFP notes a moment later, aren't there yet. `now` is the server's
    clock; that of the part which noted the end may be ahead of it."""
    finished = time_of(found.get("finished_at"))
    known = (found.get("run_details") or {}).get("task_details")
    return not known and finished is not None and (now - finished).total_seconds() < _LATE


def _said(found: Mapping[str, Any]) -> str:
    """KFP's words about a run, its states and its tasks."""
    places = [found, *(found.get("state_history") or []), *((found.get("run_details") or {}).get("task_details") or [])]
    words = (str((each.get("error") or {}).get("message") or "") for each in places)
    return "; ".join(dict.fromkeys(" ".join(each.split())[:300] for each in words if each))


def time_of(value: Any) -> datetime | None:
    """As `moment` has it. KFP says the year 1970 for what hasn't happened."""
    return None if str(value or "").startswith("1970") else moment(value)
