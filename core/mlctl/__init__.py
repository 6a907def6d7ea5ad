"""One job file. Any platform. Any orchestrator.

    run = mlctl.run("jobs/train.yaml", params={"lr": 0.1})
    run.result().metrics

What is public stands in `__all__`; each name is imported when it is first used, so that `import mlctl` costs next to
nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers take it; typing itself costs more than the rest of this module
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOME = {
    "api": ("RunHandle", "load", "plan", "reach", "run", "submit"),
    "job": ("KINDS", "Job"),
    "runs": ("Metric", "Plan", "Reason", "Result", "Run", "State", "Status"),
    "errors": (
        "Denied", "Interrupted", "InvalidConfig", "InvalidJob", "MlctlError", "RunExists", "RunFailed", "RunNotFound",
        "Unauthorized",
        "Unavailable", "Unsupported",
    ),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}
__all__ = [
    "KINDS",
    "Denied",
    "Interrupted",
    "InvalidConfig",
    "InvalidJob",
    "Job",
    "Metric",
    "MlctlError",
    "Plan",
    "Reason",
    "Result",
    "Run",
    "RunExists",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "State",
    "Status",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "load",
    "plan",
    "reach",
    "run",
    "submit",
]

if TYPE_CHECKING:
    from .api import RunHandle, load, plan, reach, run, submit
    from .errors import (
        Denied,
        Interrupted,
        InvalidConfig,
        InvalidJob,
        MlctlError,
        RunExists,
        RunFailed,
        RunNotFound,
        Unauthorized,
        Unavailable,
        Unsupported,
    )
    from .job import KINDS, Job
    from .runs import Metric, Plan, Reason, Result, Run, State, Status


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mlctl' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
