"""The tags of a job on a platform that has some: the target's, the job's labels, and mlctl's own. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlctl.backend import Settings
from mlctl.job import Job

__all__ = ["MOST", "pairs"]

MOST = 50
"""How many a job may have, on each of those platforms."""


def pairs(job: Job, settings: Settings, between: str, wrong: Callable[[str, str], bool], rule: str) -> dict[str, str]:
    """Name -> value, sorted; mlctl's own are called `mlctl`, `between` and a word. `rule` says in a message what isn't `wrong`.

    Raises InvalidConfig or InvalidJob, whosever it is, for one that is wrong, and where they are too many.
    """
    given: Mapping[str, str] = settings.values.get("tags", {})
    own = {f"mlctl{between}job": job.name}
    if job.tags:
        own[f"mlctl{between}tags"] = " ".join(job.tags)
    found = {**given, **job.labels, **own}
    for name, value in found.items():
        if wrong(name, value):
            if name in given and name not in job.labels:
                raise settings.fail("tags", f"{name}: {rule}")
            raise job.fail(("tags",), f"{name}: {rule}")
    if len(found) > MOST:
        text = f"mlctl's own {len(own)} are {len(found)} tags, of which there may be {MOST}"
        if len(given) + len(own) > MOST:
            raise settings.fail("tags", f"{len(given)} of them, with {text}")
        raise job.fail(("labels",), f"{len(job.labels)} of them, with the target's {len(given)} and {text}")
    return dict(sorted(found.items()))
