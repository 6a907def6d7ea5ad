"""What `mlctl gc` removes from a namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from mlctl.errors import MlctlError

from . import request, states
from .api import Api, Missing

__all__ = ["removed"]


def removed(
    api: Api, jobs: Iterable[Mapping[str, Any]], pods: Mapping[str, list[dict[str, Any]]], before: float, dry: bool
) -> Iterator[str]:
    """Ended Jobs that the server gave no TTL; ConfigMaps and Services that none of the other Jobs uses or owns. `pods`: by run."""
    namespace, used = api.namespace, set()
    gone: list[tuple[str, str]] = []
    for job in jobs:
        name, kept = job["metadata"]["name"], request.record(job)
        try:
            finished = states.status_of(job, pods.get(name, []), (), api.clock.now()).finished
        except MlctlError:  # in a state that isn't known is not ended
            finished = None
        old = finished and finished.timestamp() < before
        if old and (not job["spec"].get("ttlSecondsAfterFinished") or job["spec"].get("parallelism") == 0):
            gone.append(("jobs", name))
        else:
            used |= {("configmaps", each) for each in kept.get("files", ())} | {("services", kept.get("service"))}
    for kind in ("configmaps", "services"):
        for thing in api.listed(kind, namespace, request.ALL):
            metadata = thing["metadata"]
            made = datetime.fromisoformat(metadata["creationTimestamp"].replace("Z", "+00:00")).timestamp()
            if not metadata.get("ownerReferences") and (kind, metadata["name"]) not in used and made < before:
                gone.append((kind, metadata["name"]))
    for kind, name in gone:
        if not dry:
            try:
                api.call("DELETE", api.path(kind, namespace, name), {"propagationPolicy": "Background"})
            except Missing:
                continue
        yield f"{kind}/{name} of namespace {namespace}"
