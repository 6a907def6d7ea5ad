"""`@task.mlctl`: the function's body runs as a job on a target.

Its source is shipped, as `@task.docker` ships it: so what it uses it imports itself, and its arguments and what it returns
are JSON. What it returns comes back as a line of the job's log, the one thing that every platform lets its caller read.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from .operators import MlctlOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlctl.backend import Backend
    from mlctl.lifecycle import Execution
    from mlctl.runs import Run, Status

_RETURNED = "mlctl: returned "
_SCRIPT = """\
from __future__ import annotations

{source}

if __name__ == "__main__":
    import json, os

    with open(os.environ["MLCTL_PARAMS_FILE"], encoding="utf-8") as _file:
        _given = json.load(_file)
    print({mark!r} + json.dumps({name}(*_given["args"], **_given["kwargs"])), flush=True)
"""


class MlctlDecoratedOperator(DecoratedOperator, MlctlOperator):
    """A function as a job. `job` has further fields of a job file: `requirements`, `resources`, `outputs`, ...

    The kind is `process` and the name the task's id, unless `job` says otherwise. Returns what the function returns.
    """

    custom_operator_name = "@task.mlctl"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, "target", "key", "profile")
    template_fields_renderers = DecoratedOperator.template_fields_renderers

    def __init__(
        self, *, python_callable: Callable[..., Any], job: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(python_callable=python_callable, job=dict(job or {}), **kwargs)
        self._fields = dict(job or {})

    def _made(self, context: Context, target: str | None = None) -> Execution:
        with tempfile.TemporaryDirectory(prefix="mlctl-") as folder:
            text = _SCRIPT.format(source=self.get_python_source(), mark=_RETURNED, name=self.python_callable.__name__)
            Path(folder, "function.py").write_text(text, encoding="utf-8")
            self.job = UserDict(self._described(folder))
            execution = super()._made(context, target)
            execution.prepare()  # the code is packed: the folder may go
        return execution

    def _described(self, folder: str) -> dict[str, Any]:
        """What the job's file would hold."""
        from mlctl.errors import InvalidJob

        if taken := self._fields.keys() & {"code", "command"}:
            raise InvalidJob(f"job.{min(taken)}: is the function's own here; use MlctlOperator for another")
        try:
            json.dumps([self.op_args, self.op_kwargs], allow_nan=False)
        except (TypeError, ValueError, RecursionError) as reason:
            raise InvalidJob(f"{self.task_id}: its arguments can't be sent: {reason}") from None
        name = re.sub("[^a-z0-9]+", "-", self.task_id.lower()).strip("-")[:63].strip("-")
        args = {"type": "array", "default": list(self.op_args)}
        kwargs = {"type": "object", "default": dict(self.op_kwargs)}
        return {
            "kind": "process",
            "name": name or "function",
            **self._fields,
            "code": folder,
            "command": ["python", "function.py"],
            "params": {**self._fields.get("params", {}), "args": args, "kwargs": kwargs},
        }

    def _finish(self, context: Context, backend: Backend, run: Run, status: Status) -> Any:
        from mlctl import lifecycle
        from mlctl.errors import InvalidJob

        super()._finish(context, backend, run, status)
        said = (line for logs in lifecycle.lines(backend, run) for line in logs.lines)
        # what was printed before, without a line's end, stands before it
        returned = [line.partition(_RETURNED)[2] for line in said if _RETURNED in line]
        try:
            return json.loads(returned[-1]) if returned else None
        except ValueError:  # a line of a megabyte comes in pieces
            text = f"what it returned is no whole line of its log, of {len(returned[-1])} characters here"
            raise InvalidJob(f"{run.name}: {text}; leave what is large in one of its outputs") from None


def mlctl_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """What `@task.mlctl` is. `kwargs` are those of MlctlOperator."""
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=MlctlDecoratedOperator,
        **kwargs,
    )
