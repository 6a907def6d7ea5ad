"""Object stores: the containers of a pod that fetch what the job reads, and save what it left. Pure.

Nothing of ours is in the user's image, and no credential of the store is in the user's container: both containers are of the
image that the target's `stage` names, and run stager.py, whose text is in the Job. A second container that ends after the job's
stands for the sidecars that servers before 1.28 don't have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlctl.backend import Settings

from .launch import ROOT
from .settings import secret_key

__all__ = ["FETCH", "SAVE", "STORES", "added"]

STORES = frozenset({"s3", "gs", "abfs", "abfss"})
"""Schemes of addresses that are staged."""

FETCH, SAVE = "stage-in", "stage-out"
"""The names of the two containers, for the template of a target, too."""

_TEXT = Path(__file__).with_name("stager.py").read_text(encoding="utf-8")


def added(
    spec: Mapping[str, Any], settings: Settings, fetched: Mapping[str, str], saved: Mapping[str, str]
) -> dict[str, Any]:
    """A pod's spec with the two containers. `fetched`, `saved`: the pod's path -> address."""
    if not fetched and not saved:
        return dict(spec)
    stage = settings.values["stage"]
    plan = {
        name: [[address, path] for path, address in each.items()]
        for name, each in (("fetch", fetched), ("save", saved))
    }

    def container(name: str, what: str) -> dict[str, Any]:
        words = [_TEXT, what, ROOT, json.dumps(plan)]
        return {
            "name": name,
            "image": stage["image"],
            "command": ["python3", "-c", *(word.replace("$", "$$") for word in words)],
            "env": [
                *({"name": each, "value": value.replace("$", "$$")} for each, value in stage.get("env", {}).items()),
                *({"name": each, "valueFrom": secret_key(settings, each, "stage.secrets")} for each in stage.get("secrets", {})),
            ],
            "volumeMounts": [{"name": "mlctl", "mountPath": ROOT}],
        }  # fmt: skip

    beside = [container(SAVE, "save")] if saved else []
    return {**spec, "initContainers": [container(FETCH, "fetch")], "containers": [*spec["containers"], *beside]}
