"""What `mlctl gc` does with a workspace's jobs: it archives those that ended long ago. Azure ML can't forget a job, but can
leave it out of its lists; its name and its record stay, and so does what is decided by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlctl.units import moment

from . import request, states
from .service import Service

__all__ = ["archive"]

_WRITABLE = (  # of a command job: what a body may have; an update has to repeat it
    "codeId", "command", "componentId", "computeId", "description", "displayName", "distribution", "environmentId",
    "environmentVariables", "experimentName", "identity", "inputs", "jobType", "limits", "notificationSetting", "outputs",
    "properties", "queueSettings", "resources", "tags",
)  # fmt: skip


def archive(service: Service, before: float, dry: bool) -> Iterator[str]:
    """Yields a line for each job of mlctl's that ended before `before`, seconds since 1970; archives it unless `dry`."""
    for job in list(_listed(service)):  # whole, before an archived job moves the pages
        native = str(job.get("properties", {}).get("status", ""))
        if native not in states.TERMINAL or not _ours(job):
            continue
        ended = moment(service.details(str(job["name"])).get("endTimeUtc"))
        if ended is None or ended.timestamp() >= before:
            continue
        if not dry:
            kept = {name: value for name, value in job["properties"].items() if name in _WRITABLE}
            service.arm("PUT", f"{service.at.arm}/jobs/{job['name']}", {"properties": {**kept, "isArchived": True}})
        yield f"job {job['name']}, archived"


def _listed(service: Service) -> Iterator[dict[str, Any]]:
    path = f"{service.at.arm}/jobs"
    query: dict[str, Any] = {"jobType": "Command", "listViewType": "ActiveOnly"}
    while path:
        page = service.arm("GET", path, **query)
        yield from page.get("value", [])
        path, query = str(page.get("nextLink") or ""), {}


def _ours(job: Mapping[str, Any]) -> bool:
    try:
        return bool(request.recorded(job))
    except ValueError:
        return False
