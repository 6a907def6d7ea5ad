"""The one gate before a platform: nothing is submitted that was not admitted here, whoever asked.

Today it holds no rule of its own. A rule that an organisation adds guides its users; what must hold against everybody
belongs in the platform's own permissions, where no client can pass it by.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .job import Job
from .runs import Plan

__all__ = ["Admitted", "admit"]

_SEAL = object()


@dataclass(frozen=True)
class Admitted:
    """A plan that passed. Only `admit` makes one; `Backend.submit` takes nothing else."""

    plan: Plan
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("a plan is admitted by policy.admit, not by hand")


def admit(job: Job, plan: Plan) -> Admitted:
    """The plan, admitted. Raises Denied where a rule forbids it, naming the rule."""
    return Admitted(plan, _SEAL)
