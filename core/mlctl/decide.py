"""What to do about the attempts of a key that are there: one pure function, and the table it follows.

| last attempt | decision |
|---|---|
| none | submit attempt 0 |
| queued, starting or running | adopt it |
| succeeded | adopt it |
| stopping | wait for its end, then decide again; never adopt it |
| failed, and never started (its submitter died) | submit the next |
| failed for a reason with budget left in the job's `retry` | submit the next |
| failed for another reason, or without budget | report it; asked to try again: submit the next |
| cancelled | report it; asked to try again: submit the next |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .runs import Found, Reason, State

__all__ = ["Action", "Decision", "decide"]


class Action(str, Enum):
    SUBMIT = "submit"
    ADOPT = "adopt"
    WAIT = "wait"
    REPORT = "report"


@dataclass(frozen=True)
class Decision:
    """`attempt` is the number to submit; `found` the attempt to adopt, wait for or report."""

    action: Action
    attempt: int = 0
    found: Found | None = None


def decide(attempts: Sequence[Found], retry: Mapping[str, int], again: bool = False) -> Decision:
    """The decision for a key. `retry` is the job's budget by reason, spent by the attempts themselves; `again` asks for
    another attempt where the last one ended badly."""
    if not attempts:
        return Decision(Action.SUBMIT, 0)
    last = max(attempts, key=lambda found: found.number)
    state, reason = last.status.state, last.status.reason
    if state is State.STOPPING:
        return Decision(Action.WAIT, found=last)
    if not state.terminal or state is State.SUCCEEDED:
        return Decision(Action.ADOPT, found=last)
    if again or (state is State.FAILED and (reason is Reason.ABANDONED or _budget(attempts, reason, retry) > 0)):
        return Decision(Action.SUBMIT, last.number + 1)
    return Decision(Action.REPORT, found=last)


def _budget(attempts: Sequence[Found], reason: Reason | None, retry: Mapping[str, int]) -> int:
    """How often the job may still be tried after failing for `reason`; the first try costs nothing."""
    if reason is None:
        return 0
    failures = sum(found.status.state is State.FAILED and found.status.reason is reason for found in attempts)
    return retry.get(reason.value, 0) - (failures - 1)
