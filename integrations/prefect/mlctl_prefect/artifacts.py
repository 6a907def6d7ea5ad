"""What a flow run shows of its jobs: the plan before the submit, a link to the run, a table of what it left.

The plan is made before anything is submitted, and names the key: so that whoever finds the flow run dead finds its
jobs too (see hooks.py). An artifact that can't be made is a warning; the job goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext, TaskRunContext

from mlctl.job import Job
from mlctl.lifecycle import Execution
from mlctl.runs import Result, Run

__all__ = ["PLAN", "plan", "read_plan"]

PLAN = "mlctl: what is sent to the platform"
_FENCE = "```json\n"


def plan(execution: Execution, logger: Any) -> None:
    """The exact request, and what it takes to find the job by: its name, its key, its target."""
    shown = {
        "job": execution.job.name,
        "key": execution.key.text,
        "target": execution.settings.target,
        "backend": execution.backend.name,
        "settings": dict(execution.settings.values),
        "home": str(execution.settings.home),
        "plan": execution.plan().to_json(),
    }
    text = f"{_FENCE}{json.dumps(shown, indent=2, sort_keys=True)}\n```"
    _make(logger, create_markdown_artifact, text, key=f"{execution.job.name}-plan", description=PLAN)


def read_plan(text: str) -> dict[str, Any]:
    """What `plan` wrote. Raises ValueError for anything else."""
    read: dict[str, Any] = json.loads(text.removeprefix(_FENCE).removesuffix("\n```"))
    return read


def link(job: Job, run: Run, page: str, logger: Any) -> None:
    """The platform's page of the run, where it has one; its URL, which `mlctl status` takes, in any case."""
    _make(
        logger, create_link_artifact, page or str(run), link_text=run.name, key=f"{job.name}-run", description=str(run)
    )


def results(job: Job, left: Result, logger: Any) -> None:
    """The last value of each metric, and the address of each output."""
    rows = [{"what": f"metric {name}", "value": value} for name, value in left.metrics.items()]
    rows += [{"what": f"output {name}", "value": address} for name, address in left.outputs.items()]
    _make(logger, create_table_artifact, rows, key=f"{job.name}-results", description=job.description or job.name)


def _make(logger: Any, create: Callable[..., Any], what: Any, **options: Any) -> None:
    if not (FlowRunContext.get() or TaskRunContext.get()):
        return
    try:
        create(what, _sync=True, **options)
    except Exception as error:
        logger.warning("no artifact '%s': %s", options["key"], error)
