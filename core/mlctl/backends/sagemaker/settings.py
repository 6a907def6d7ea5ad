"""The settings of a target, checked before anything is asked of AWS."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlctl.backend import Settings
from mlctl.errors import one_line

__all__ = ["check"]


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _words(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, str) for each in (*value, *value.values()))


def _vpc(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"subnets", "security_groups"}
        and all(
            isinstance(each, list) and each and all(isinstance(one, str) for one in each) for each in value.values()
        )
    )


_ALLOWED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "region": (_text(r"[a-z0-9-]+"), "a region such as eu-west-1"),
    "profile": (_text(r".+"), "a profile of ~/.aws/config"),
    "role": (_text(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+|[\w+=,.@-]+"), "a role's name or ARN"),
    "bucket": (_text(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"), "a bucket's name, without s3://"),
    "prefix": (_text(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"), "a folder of the bucket such as ml/jobs"),
    "instance_type": (_text(r"ml\.[a-z0-9-]+\.[a-z0-9]+"), "an instance type such as ml.m5.xlarge"),
    "image": (_text(r"\S+"), "an image's address in ECR, or a framework such as sklearn==1.4"),
    "volume": (_whole(1, 16384), "GB from 1 to 16384"),
    "kms_key": (_text(r"[a-zA-Z0-9:/_-]+"), "a KMS key's id or ARN"),
    "vpc": (_vpc, "{subnets: [subnet-...], security_groups: [sg-...]}"),
    "network_isolation": (_flag, "true or false"),
    "encrypt_traffic": (_flag, "true or false"),
    "max_runtime": (_whole(1, 28 * 86400), "seconds from 1 to 2419200"),
    "tags": (_words, "a mapping of words to words"),
}


def check(settings: Settings) -> None:
    """Raises InvalidConfig that names the first setting that is wrong, and what it takes."""
    for name, (right, expected) in _ALLOWED.items():
        value = settings.values.get(name)
        if value is not None and not right(value):
            raise settings.fail(name, f"got {one_line(value)}, expected {expected}")
