"""Golden requests: what a platform is sent for a job of each kind, in tests/golden/PLATFORM/KIND.json."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlctl import jobfile
from mlctl.backend import Backend
from mlctl.runs import Plan, Stamp

TESTS = Path(__file__).parents[1]
NOWHERE = Path("/nonexistent")
STAMP = Stamp("k" * 64, "d" * 64, "params=123456", {"dag": "a'b"}, "n" * 16)
JOB: Mapping[str, Any] = {
    "name": "churn",
    "command": "python job.py --lr ${{params.lr}} --data ${{inputs.data}}",
    "params": {"lr": 0.1, "note": "two\nlines"},
    "env": {"MODE": "full ${{params.note}}"},
    "secrets": ["TOKEN"],
    "timeout": "2h",
    "labels": {"cost": "42"},
    "tags": ["nightly"],
}
"""What the jobs of all kinds have."""


def planned(made: Backend, facts: Mapping[str, Any], **fields: Any) -> Plan:
    """A plan from facts that are written down: nothing is asked of anybody."""
    job = jobfile.load(fields).snapshot(NOWHERE)
    return made.plan(job, facts, "churn-abcdefghijklmnop-1")


def kept(platform: str, kind: str) -> dict[str, Any]:
    """The golden request."""
    found: dict[str, Any] = json.loads((TESTS / f"golden/{platform}/{kind}.json").read_text())
    return found


def changed(whole: Mapping[str, Any], path: Sequence[Any], value: Any) -> dict[str, Any]:
    """A copy in which `value` is at the path; None: in which nothing is there."""
    made = copy.deepcopy(dict(whole))
    inner: Any = made
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


def compare(kind: str, plan: Plan, sent: Mapping[str, Any]) -> None:
    """Fails where the plan, or what is sent of it, is another than the golden one, and writes what it is."""
    text = json.dumps({**plan.to_json(), "sent": sent}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    golden = TESTS / f"golden/{plan.backend}/{kind}.json"
    if not golden.exists() or golden.read_text() != text:
        written = TESTS.parent / f"build/golden/{plan.backend}" / golden.name
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(text)
        pytest.fail(f"{golden} is another; review {written}, and copy it there where it is right")
