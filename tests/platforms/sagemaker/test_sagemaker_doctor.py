"""What `mlctl doctor` says of a target of SageMaker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sagemaker_harness import target
from sagemaker_standin import StandIn


def test_doctor(idle: StandIn, home: Path) -> None:
    found = list(target(home).check())
    assert [(one.what, one.ok) for one in found] == [
        (what, True) for what in ("region", "credentials", "role", "bucket", "sagemaker", "quota")
    ]
    assert "15 ml.m5.xlarge for training" in found[-1].text


@pytest.mark.parametrize(
    ("what", "settings", "fault", "mend"),
    [
        ("region", {"region": "eu-wst-1"}, None, "targets.prod.region"),
        ("credentials", {}, ("forbidden", "sts"), "targets.prod.profile"),
        ("role", {"role": "nobody"}, None, "targets.prod.role"),
        ("bucket", {"bucket": "ml-nowhere"}, None, "aws s3 mb s3://ml-nowhere"),
        ("sagemaker", {}, ("forbidden", "sagemaker"), "docs/sagemaker.md"),
        ("quota", {"instance_type": "ml.p3.2xlarge"}, None, "Service Quotas"),
    ],
)
def test_doctor_says_how_to_mend(
    what: str, settings: dict[str, Any], fault: tuple[str, str] | None, mend: str, idle: StandIn, home: Path
) -> None:
    if fault:
        with idle.fault(*fault):
            found = list(target(home, **settings).check())
    else:
        found = list(target(home, **settings).check())
    bad = [one for one in found if not one.ok]
    assert [one.what for one in bad] == [what]
    assert mend in bad[0].mend
    assert bad[0].text
