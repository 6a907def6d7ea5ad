"""mlctl's jobs in Prefect 3: as tasks, as a block, and as one hook.

    from mlctl_prefect import mlctl_process, mlctl_train, output

    prepare = mlctl_process("jobs/process.yaml")
    train = mlctl_train("jobs/train.yaml", retries=2)

    @flow
    def nightly():
        data = prepare()
        model = train({"epochs": 30}, inputs={"data": data.outputs["data"]})
        return model.metrics["accuracy"]

A task's job is found again, never started twice, by a task retry, a flow retry, and a flow run that is executed again
after a crash. `mlctl_process`, `mlctl_train` and so on are `mlctl_task` for jobs of one kind, a row of mlctl's table
of kinds each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlctl.job import KINDS

from .blocks import MlctlJob, MlctlRun
from .hooks import stop_jobs
from .results import MlctlResult, output
from .tasks import MlctlTask, factory, mlctl_task

__all__ = ["MlctlJob", "MlctlResult", "MlctlRun", "MlctlTask", "mlctl_task", "output", "stop_jobs"]

for _kind in KINDS.values():
    _made = factory(_kind)
    globals()[_made.__name__] = _made
    __all__ += [_made.__name__]

if TYPE_CHECKING:  # the names that the table makes

    def __getattr__(name: str) -> Callable[..., MlctlTask]: ...
