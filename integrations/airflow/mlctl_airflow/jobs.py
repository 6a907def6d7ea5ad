"""What a task adds to a job on a worker: paths that count from the DAG file's folder, and secrets kept out of its log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


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
    """Has Airflow mask the values of the secrets of these names that this process can see. `settings` are the target's."""
    from airflow.sdk.log import mask_secret

    for name in secrets:
        kind, _, where = str(settings.get("secrets", {}).get(name, f"env:{name}")).partition(":")
        value = os.environ.get(where, "") if kind == "env" else ""
        if kind == "file":
            with suppress(OSError, UnicodeDecodeError):
                value = Path(where).read_text(encoding="utf-8").strip()
        if value:
            mask_secret(value)
