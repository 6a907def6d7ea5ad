"""The settings of a target, checked before anything is asked of AWS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlctl.backend import Settings
from mlctl.values import Allowed, flag, text, whole, words

__all__ = ["check"]


def _vpc(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"subnets", "security_groups"}
        and all(
            isinstance(each, list) and 0 < len(each) <= most and all(isinstance(one, str) for one in each)
            for each, most in ((value["subnets"], 16), (value["security_groups"], 5))
        )
    )


_ALLOWED: Allowed = {
    "region": (text(r"[a-z0-9-]+"), "a region such as eu-west-1"),
    "profile": (text(r".+"), "a profile of ~/.aws/config"),
    "role": (text(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+|[\w+=,.@-]+"), "a role's name or ARN"),
    "bucket": (text(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"), "a bucket's name, without s3://"),
    "prefix": (
        text(r"(?=.{1,512}\Z)[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"),
        "a folder of the bucket such as ml/jobs, at most 512 characters",
    ),
    "instance_type": (text(r"ml\.[a-z0-9-]+\.[a-z0-9]+"), "an instance type such as ml.m5.xlarge"),
    "image": (text(r"\S+"), "an image's address in ECR, or a framework such as sklearn==1.4"),
    "volume": (whole(1, 16384), "GB from 1 to 16384"),
    "kms_key": (text(r"[a-zA-Z0-9:/_-]+"), "a KMS key's id or ARN"),
    "vpc": (_vpc, "{subnets: [subnet-...], security_groups: [sg-...]}, 16 and 5 at most"),
    "network_isolation": (flag, "true or false"),
    "encrypt_traffic": (flag, "true or false"),
    "max_runtime": (whole(1, 28 * 86400), "seconds from 1 to 2419200"),
    "tags": (words, "a mapping of words to words"),
}


def check(settings: Settings) -> None:
    """Raises InvalidConfig that names the first setting that is wrong, and what it takes."""
    settings.check(_ALLOWED)
