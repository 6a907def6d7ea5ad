"""Databricks' stand-in, as a process of its own serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from databricks_harness import furnish
from databricks_standin import TOKEN, VOLUME, Standin


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The variables and the target that reach it."""
    with contextlib.closing(Standin(folder)) as made:
        furnish(made)
        env = {"DATABRICKS_HOST": made.url, "DATABRICKS_TOKEN": TOKEN, "DATABRICKS_CONFIG_FILE": str(folder / "none")}
        yield env, {"backend": "databricks", "root": VOLUME, "secrets": {"TOKEN": "dbx-secret:ml/token"}}
