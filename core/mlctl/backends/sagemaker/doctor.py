"""What `mlctl doctor` finds of a SageMaker target, each by a call, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from mlctl.backend import Finding, Settings
from mlctl.errors import RunNotFound, Unauthorized

from .aws import Aws
from .store import Store

__all__ = ["findings", "role"]


def role(aws: Aws, settings: Settings) -> str:
    """The ARN of the target's role, which jobs run as. Raises InvalidConfig for none, and for one that isn't there."""
    name = str(settings.values.get("role", ""))
    if not name:
        raise settings.fail("role", "it is not set; name the IAM role that jobs run as, or give its ARN")
    bare = name.rpartition("/")[2]
    if name.startswith("arn:") and name.split(":")[4] != aws.account():
        text = f"got '{name}', and these credentials are of account {aws.account()}; SageMaker takes a role of its own account"
        raise settings.fail("role", text)
    try:
        return str(aws.call("iam", "get_role", aws.region(), RoleName=bare)["Role"]["Arn"])
    except RunNotFound:
        raise settings.fail("role", f"there is no role '{bare}' in account {aws.account()}") from None
    except Unauthorized:  # who may start jobs need not be allowed to read roles
        partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(
            aws.region().rpartition("-")[0].rpartition("-")[0], "aws"
        )
        return name if name.startswith("arn:") else f"arn:{partition}:iam::{aws.account()}:role/{name}"


def findings(aws: Aws, store: Store, settings: Settings) -> Iterator[Finding]:
    """In an order in which each needs those before it; ends where nothing more can be asked."""
    target = settings.target

    region = Finding.of("region", aws.region, f"set targets.{target}.region to one such as eu-west-1")
    yield region
    if not region.ok:
        return
    mend = f"log in (aws sso login, aws configure), or set targets.{target}.profile"
    credentials = Finding.of("credentials", lambda: f"account {aws.account()}", mend)
    yield credentials
    if not credentials.ok:
        return
    bucket = str(settings.values.get("bucket") or f"sagemaker-{aws.region()}-{aws.account()}")

    def reached() -> str:
        store.checked(bucket, settings.fail)
        return f"s3://{bucket}"

    yield Finding.of(
        "role",
        lambda: role(aws, settings),
        f"set targets.{target}.role to a role that sagemaker.amazonaws.com may assume",
    )
    yield Finding.of(
        "bucket", reached, f"aws s3 mb s3://{bucket} --region {aws.region()}, or set targets.{target}.bucket"
    )

    def listed() -> str:
        for operation in ("list_training_jobs", "list_processing_jobs"):
            aws.call("sagemaker", operation, aws.region(), MaxResults=1)
        return "training and processing jobs can be listed"

    yield Finding.of("sagemaker", listed, "grant the permissions of docs/sagemaker.md to these credentials")
    instance = str(settings.values.get("instance_type", "ml.m5.xlarge"))
    yield Finding.of(
        "quota",
        lambda: _quota(aws, settings, instance),
        f"ask for more in Service Quotas (SageMaker, {instance}), or set targets.{target}.instance_type",
    )


def _quota(aws: Aws, settings: Settings, instance: str) -> str:
    """How many of the target's instances jobs may use at once. Raises InvalidConfig where that is none."""
    wanted = {f"{instance} for training job usage": "training", f"{instance} for processing job usage": "processing"}
    found: dict[str, float] = {}
    more: dict[str, str] = {}
    while True:
        answer = aws.call(
            "service-quotas", "list_service_quotas", aws.region(), ServiceCode="sagemaker", MaxResults=100, **more
        )
        found |= {wanted[one["QuotaName"]]: one["Value"] for one in answer["Quotas"] if one["QuotaName"] in wanted}
        if len(found) == len(wanted) or not answer.get("NextToken"):
            break
        more = {"NextToken": answer["NextToken"]}
    if none := [kind for kind in wanted.values() if found.get(kind, 0) < 1]:
        raise settings.fail("instance_type", f"the quota of {instance} for {' and '.join(none)} jobs is 0")
    return ", ".join(f"{found[kind]:g} {instance} for {kind}" for kind in wanted.values())
