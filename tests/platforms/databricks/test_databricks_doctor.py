"""What `mlctl doctor` says of a workspace."""

from __future__ import annotations

from typing import Any

import pytest
from databricks_harness import DatabricksHarness
from databricks_standin import Standin

from mlctl.backend import Backend


def findings(made: Backend) -> dict[str, tuple[bool, str]]:
    return {one.what: (one.ok, f"{one.text} {one.mend}") for one in made.check()}


def test_doctor_is_content(made: Backend) -> None:
    found = findings(made)
    assert found.keys() == {"credentials", "root", "jobs", "serverless"}
    assert all(ok for ok, _ in found.values()), found


@pytest.mark.parametrize(
    ("values", "fault", "what", "says"),
    [
        ({}, "forbidden", "credentials", "DATABRICKS_TOKEN"),
        ({"root": "/Volumes/main/ml/nobodys"}, "", "root", "WRITE VOLUME"),
        ({"cluster": "0000-000000-nobodys"}, "", "cluster", "targets.dbx.cluster"),
        ({"new_cluster": {"spark_version": "0.1.x"}}, "", "new_cluster", "new_cluster.spark_version"),
    ],
    ids=str,
)
def test_doctor_says_how_to_mend(
    harness: DatabricksHarness, standin: Standin, values: dict[str, Any], fault: str, what: str, says: str
) -> None:
    harness.values |= values
    with standin.broken(fault):
        ok, text = findings(harness.make())[what]
    assert not ok
    assert says in text
