"""The contract's view of the stand-in, by the stand-in's own memory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import boto3
from sagemaker_standin import StandIn

from mlctl import backend, jobfile, lifecycle
from mlctl.backend import Backend, Settings
from mlctl.backends.sagemaker import SageMaker
from mlctl.runs import Key, Run
from mlctl.testing import Harness, Native

ACCOUNT = "123456789012"
REGION = "eu-west-1"
BUCKET = "ml-jobs"
ROLE = "ml-jobs"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Nobody's, and no configuration of this machine's user."""


def furnish(url: str) -> None:
    """A bucket, a role and a secret, as a platform team makes them."""

    def client(service: str) -> Any:
        return boto3.client(service, endpoint_url=url, region_name=REGION)

    client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=policy)
    client("secretsmanager").create_secret(Name="ml/token", SecretString=Harness.secret)
    client("ssm").put_parameter(Name="/ml/token", Value=Harness.secret + "\n", Type="SecureString")


SETTINGS: Mapping[str, Any] = {
    "region": REGION, "bucket": BUCKET, "role": ROLE, "secrets": {"TOKEN": "aws-sm:ml/token"},
}  # fmt: skip


class SageMakerHarness(Harness):
    """Real boto3 over HTTP to the stand-in."""

    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "image": {"image": "sklearn==1.4"},
        "python": {"python": "3.11"},
        "outputs.uri": {"outputs": {"model": {"uri": f"s3://{BUCKET}/models"}}},
    }

    def __init__(self, standin: StandIn, home: Path) -> None:
        self.standin, self.home = standin, home

    def make(self) -> Backend:
        return backend.load("sagemaker", Settings("prod", SETTINGS, self.home))

    def native(self, run: Run) -> Native:
        jobs = [job for key, job in self.standin.jobs.items() if key[3] == run.name]
        return Native(len(jobs), any(job.status in ("InProgress", "Stopping") for job in jobs))

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        if fault == "lost_response":
            with self.standin.fault("lost", "sagemaker Create", times=1):
                yield
        else:
            with self.standin.fault(fault):
                yield


def target(home: Path, **settings: Any) -> SageMaker:
    values = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    return SageMaker(Settings("prod", values, home))


def execution(backend: SageMaker, key: str = "one", **fields: Any) -> lifecycle.Execution:
    job = jobfile.load({"kind": "train", "name": "sm", "command": "true", **fields})
    return lifecycle.Execution(job, backend, backend.settings, Key(f"{backend.settings.home}{key}", "sm"))
