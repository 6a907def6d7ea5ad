"""What a task adds to a job on a worker: paths that count from the DAG file's folder, secrets kept out of its log, a
connection's credentials."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlctl.backend import Settings


def at(folder: Path, value: Any) -> Any:
    """A relative path from `folder` on; a URI, and what is no text, as it is."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    return str(folder / os.path.expanduser(value))  # noqa: PTH111 - raises nothing where there is no such home


def rooted(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A job's mapping with its relative paths from `folder` on, where a file's would count from the file."""
    rooted = {name: at(folder, value) if name in ("code", "requirements") else value for name, value in job.items()}
    if isinstance(inputs := rooted.get("inputs"), Mapping):
        rooted["inputs"] = {
            name: {**one, "uri": at(folder, one["uri"])}
            if isinstance(one, Mapping) and "uri" in one
            else at(folder, one)
            for name, one in inputs.items()
        }
    return rooted


def mask(secrets: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Has Airflow mask what this process can read of the secrets of these names. `settings` are the target's."""
    from airflow.sdk.log import mask_secret

    from mlctl import masking

    for value in masking.values(secrets, settings):
        mask_secret(value)


def lend(conn_id: str | None, settings: Settings) -> None:
    """Gives this process the credentials of the connection that a target names, if it names one. `settings` are the target's."""
    if conn_id:
        from . import connections

        connections.alone(settings)
        connections.lend(connections.get(conn_id))
