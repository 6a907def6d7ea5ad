"""What a try keeps over its deferral: enough to reach the run, from any worker. Its trigger has it, as JSON, and hands it
back in its event: the one thing that `dag.test()` keeps, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import jobs

if TYPE_CHECKING:
    from mlctl.backend import Backend
    from mlctl.lifecycle import Execution, Outcome

    from .moved import TaskDeferred


@dataclass(frozen=True)
class Deferral:
    """A run that a triggerer watches for the try. `made` says whether the try submitted it; `deadline`, in seconds since
    1970, when `execution_timeout` is over; `secrets` are names."""

    run: str
    target: str
    settings: Mapping[str, Any]
    home: str
    conn_id: str | None
    deadline: float | None
    made: bool
    secrets: list[str]

    @classmethod
    def of(cls, execution: Execution, outcome: Outcome, conn_id: str | None, deadline: float | None) -> Deferral:
        """The deferral of a run that goes on."""
        at, secrets = execution.settings, list(execution.job.secrets)
        return cls(str(outcome.run), at.target, dict(at.values), str(at.home), conn_id, deadline, outcome.made, secrets)

    def begin(self, log_interval: float | None, cursor: str) -> TaskDeferred:
        """What hands the wait to a triggerer; to be raised. The log is shown from `cursor` on."""
        from .moved import TaskDeferred
        from .triggers import RunTrigger

        # A triggerer can't mask secrets that it doesn't know: such a job's log is shown by the worker, at the end.
        trigger = RunTrigger(**asdict(self), log_interval=None if self.secrets else log_interval, cursor=cursor)
        return TaskDeferred(trigger=trigger, method_name="resume")

    def reach(self) -> Backend:
        """The run's platform, with its connection's credentials, the job's secrets masked."""
        from mlctl.backend import Settings, load
        from mlctl.runs import Run

        settings = Settings(self.target, self.settings, Path(self.home))
        jobs.lend(self.conn_id, settings)
        jobs.mask(self.secrets, self.settings)
        return load(Run.parse(self.run).backend, settings)
