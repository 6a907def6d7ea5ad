"""What a container's record, and the marks in it (entry.py), say of its run: one table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, State, Status

from . import entry
from .request import LABEL_DEADLINE

__all__ = ["HALF_REMOVED", "LIVE", "ended", "of_line", "refusal", "seconds", "status_of", "time_of"]

LIVE = ("running", "paused", "restarting")
_OVER = ("exited", "dead")
_KNOWN = (*LIVE, *_OVER, "created", "removing")
HALF_REMOVED = "its container is dead: the engine could remove but half of it"
_SIGNALS = {
    129: "SIGHUP",
    130: "SIGINT",
    131: "SIGQUIT",
    134: "SIGABRT",
    137: "SIGKILL",
    139: "SIGSEGV",
    143: "SIGTERM",
}


def ended(record: Mapping[str, Any]) -> bool:
    """True where nothing runs any more, or could not be started."""
    state = record["State"]
    return state["Status"] in _OVER or (state["Status"] == "created" and bool(state.get("Error")))


def seconds(text: str) -> float:
    """The engine's way to write a time, as seconds since 1970; 0 for its way to write none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not match or text.startswith("0001-"):
        return 0.0
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)


def time_of(text: str) -> datetime | None:
    """The same as a time; None for none."""
    return datetime.fromtimestamp(found, timezone.utc) if (found := seconds(text)) else None


def status_of(record: Mapping[str, Any], marks: Collection[str], now: float = 0.0) -> Status:
    """`record` is what inspecting the container says, `marks` the names in its STATE; both were read after `now`, the engine's
    time in seconds since 1970, of which an earlier one only makes the answer more patient.

    Raises MlctlError for a state that isn't known.
    """
    state = record["State"]
    native = state["Status"]
    if native not in _KNOWN:
        raise MlctlError(
            f"the engine says '{native}' of {record['Name']}, which mlctl doesn't know; say so to its makers"
        )
    started, finished = time_of(state.get("StartedAt", "")), time_of(state.get("FinishedAt", ""))
    if native == "dead":  # the engine starts it no more, and lets nobody look into it
        mend = f"docker rm -f {record['Name'].lstrip('/')}"
        text = f"{HALF_REMOVED}, and how the job ended is lost with that; {mend}"
        return Status(State.FAILED, Reason.INFRA, text, None, started, finished)
    if native == "removing":
        text = "its container is being removed; where that never ends, restart the engine"
        return Status(State.STOPPING, message=text, started=started)
    if native in LIVE:
        if "cancel" in marks or "timeout" in marks or "stopped" in marks:
            return Status(State.STOPPING, message="asked to stop", started=started)
        return Status(State.RUNNING, message="" if native == "running" else native, started=started)
    if native == "created":
        return _unstarted(record, marks, now)
    failed, reason, message, code = _end(state, marks)
    return Status(failed, reason, message, code, started, finished)


def _unstarted(record: Mapping[str, Any], marks: Collection[str], now: float) -> Status:
    """A container that has its name, and was not started: its submitter is about to, was refused, or is gone.

    The deadline, by whatever clock it was reckoned, is part of the container, and nobody moves it. The first process begins
    nothing once that second is over, by the clock that `now` is of, whoever starts it; and `now` was before the record said that
    there was no process yet. So one that is abandoned here never begins, and one that may still begin is starting.
    """
    if error := str(record["State"].get("Error") or ""):
        return Status(State.FAILED, refusal(error), f"could not be started: {error}")
    waits = now < int(record["Config"]["Labels"].get(LABEL_DEADLINE, 0)) + 2  # a container counts in whole seconds
    if "cancel" in marks:
        return (
            Status(State.STOPPING) if waits else Status(State.CANCELLED, Reason.CANCELLED, "cancelled before it began")
        )
    if waits:
        return Status(State.STARTING)
    return Status(State.FAILED, Reason.ABANDONED, "its submitter died before starting it")


def refusal(error: str) -> Reason:
    """Why the engine could not start a container, by what it says of that."""
    if re.search(r"device driver|nvidia|gpu", error, re.IGNORECASE):
        return Reason.NO_CAPACITY
    if re.search(r"exec: |executable file not found|exec format error|no such file or directory: unknown", error):
        return Reason.IMAGE
    return Reason.INFRA


def _end(state: Mapping[str, Any], marks: Collection[str]) -> tuple[State, Reason | None, str, int | None]:
    code = int(state.get("ExitCode") or 0)
    if "late" in marks:
        return State.FAILED, Reason.ABANDONED, "was started too late, and did not begin", None
    if "image" in marks:
        return State.FAILED, Reason.IMAGE, "the image has another Python than the job asks for; see the log", None
    noted = next((name for name in marks if name.startswith("exit.")), "")
    if noted:
        _, number, why = [*noted.split("."), ""][:3]
        code = int(number)
        if why == "cancel":
            return State.CANCELLED, Reason.CANCELLED, "cancelled", code
        if why == "timeout":
            return State.FAILED, Reason.TIMEOUT, "timed out", code
        if why == "stopped":
            text = f"was stopped from outside (docker stop, or the engine's end); exit code {code}"
            return State.FAILED, Reason.INFRA, text, code
        if code == 0:
            return State.SUCCEEDED, None, "succeeded", 0
    killed_for_memory = bool(state.get("OOMKilled")) or "oom" in marks
    if killed_for_memory and code == 137:
        return State.FAILED, Reason.OOM, "out of memory", code
    if not noted:
        if "cancel" in marks:
            return State.CANCELLED, Reason.CANCELLED, "cancelled", code
        if code == entry.UNREADY:
            return State.FAILED, Reason.INFRA, "could not make its folders, and did not begin; see the log", None
        error = state.get("Error") or "by docker kill, or the engine's end"
        return State.FAILED, Reason.INFRA, f"the container was ended from outside: {error}; exit code {code}", code
    text = f"exit code {code}" + (f" ({_SIGNALS[code]})" if code in _SIGNALS else "")
    if killed_for_memory:
        text += "; a process of it was ended for its memory"
    return State.FAILED, Reason.ERROR, text, code


def of_line(line: Mapping[str, Any]) -> Status:
    """Of a container that a list of the live ones has."""
    return Status(State.RUNNING, message="" if line["State"] == "running" else str(line["State"]))
