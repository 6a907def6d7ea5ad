"""What Azure ML says of a job, and what that is called here. A state that is not in these tables is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, Run, State, Status
from mlctl.units import moment

__all__ = ["LIVE", "TERMINAL", "failure", "seconds", "state_of", "status_of"]

LIVE: Mapping[str, State] = {
    "NotStarted": State.QUEUED,
    "Queued": State.QUEUED,
    "Paused": State.QUEUED,
    "Starting": State.STARTING,
    "Provisioning": State.STARTING,
    "Preparing": State.STARTING,
    "Running": State.RUNNING,
    "NotResponding": State.RUNNING,  # its node has not been heard of for a while, and may be again
    "Finalizing": State.RUNNING,
    "CancelRequested": State.STOPPING,
}
TERMINAL: Mapping[str, State] = {
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Canceled": State.CANCELLED,
}
"""Whether a job timed out, and why it failed, the run history knows."""

_FAILURES = (  # the first that matches what the run history says
    (
        r"[Ii]mage[ -]?[Bb]uild|EnvironmentBuild|ImagePull|pull(ing)? image|manifest unknown|[Cc]onda.*(fail|error)",
        Reason.IMAGE,
    ),
    (r"[Qq]uota|CoreQuota|not enough quota", Reason.QUOTA),
    (r"[Pp]reempt|[Ee]vict", Reason.PREEMPTED),
    (r"OutOfMemory|[Oo]ut of memory|\bOOM|(status|exit) code:? 137\b|exit_codes\W+value\W+137\b", Reason.OOM),
    (r"AllocationFailed|OutOfCapacity|[Ii]nsufficient capacity|no capacity|ResizeFailed", Reason.NO_CAPACITY),
    (r"timed? ?out|JobTimeout|max_run_duration|MaxRunDuration|maximum run duration", Reason.TIMEOUT),
)
_CODE = re.compile(r"""exited with (?:status )?code (\d+)|exit_codes\W+value\W+(\d+)|[Ee]xit code:? (\d+)""")


def state_of(run: Run, native: str) -> State:
    """Raises MlctlError for a state that this version doesn't know."""
    state = LIVE.get(native) or TERMINAL.get(native)
    if state is None:
        raise MlctlError(f"{run}: Azure ML says {native or 'nothing'}, which this version of mlctl doesn't know")
    return state


def status_of(run: Run, job: Mapping[str, Any]) -> Status:
    """The status in a job's record, as far as that tells it."""
    properties = job.get("properties", {})
    native = str(properties.get("status", ""))
    studio = (properties.get("services") or {}).get("Studio") or {}
    message = "" if native in TERMINAL else native
    return Status(state_of(run, native), message=message, link=str(studio.get("endpoint") or ""))


def failure(status: Status, details: Mapping[str, Any], limit: float) -> Status:
    """A job that failed or was cancelled, with what the run history knows: times, why. `limit`: the job's, in seconds."""
    error = (details.get("error") or {}).get("error") or {}
    said = " ".join(str(error.get("message") or "").split())
    text = " ".join([*_codes(error), said])
    started, finished = moment(details.get("startTimeUtc")), moment(details.get("endTimeUtc"))
    known: dict[str, Any] = {"started": started, "finished": finished, "link": status.link}
    if status.state is State.CANCELLED:
        late = bool(limit and started and finished and (finished - started).total_seconds() >= limit)
        if late or any(re.search(pattern, text) for pattern, reason in _FAILURES if reason is Reason.TIMEOUT):
            return Status(State.FAILED, Reason.TIMEOUT, said or "ended after its timeout", **known)
        return Status(State.CANCELLED, Reason.CANCELLED, said or "cancelled", **known)
    code = _CODE.search(text)
    exit_code = int(next(filter(None, code.groups()))) if code else None
    if exit_code is not None:  # the job's own process ended: its words are no sign of what the platform did
        reason = Reason.OOM if exit_code == 137 else Reason.ERROR
    else:
        ours = str(error.get("code", "")) not in ("UserError", "ExecutionFailed", "")
        named = (reason for pattern, reason in _FAILURES if re.search(pattern, text))
        reason = next(named, Reason.INFRA if ours else Reason.ERROR)
    return Status(State.FAILED, reason, said or "failed; its log may tell why", exit_code, **known)


def _codes(error: Mapping[str, Any]) -> list[str]:
    """The code of an error, and of those inside it."""
    found: list[str] = []
    inner: Any = error
    while isinstance(inner, Mapping) and len(found) < 10:
        found.append(str(inner.get("code", "")))
        inner = inner.get("innerError")
    return found


def seconds(duration: Any) -> float:
    """Of an ISO 8601 duration such as `PT1H30M` or `P1DT2S`; 0 for what is none."""
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", str(duration or ""))
    days, hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0.0,) * 4
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
