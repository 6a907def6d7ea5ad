"""What is sent: golden requests by botocore's model, each field of them damaged, and what is refused before it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import goldens
import pytest
import sagemaker_model as model
from botocore.exceptions import ClientError, ParamValidationError
from sagemaker_harness import REGION, SETTINGS
from sagemaker_standin import StandIn

from mlctl.backend import Settings
from mlctl.backends.sagemaker import SageMaker, request
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unsupported
from mlctl.runs import Plan

FACTS: dict[str, Any] = {
    "account": "123456789012",
    "region": "eu-west-1",
    "bucket": "acme-ml",
    "role": "arn:aws:iam::123456789012:role/ml-jobs",
    "inputs": {"data": {"single": False}, "model": {"single": True}},
}
TARGET: dict[str, Any] = {
    **SETTINGS, "bucket": "acme-ml", "kms_key": "alias/ml", "tags": {"team": "growth"}, "encrypt_traffic": True,
    "vpc": {"subnets": ["subnet-0a1b"], "security_groups": ["sg-0c2d"]},
}  # fmt: skip
JOBS: dict[str, dict[str, Any]] = {
    "train": {
        **goldens.JOB,
        "image": "pytorch==2.5",
        "inputs": {"data": {"uri": "s3://acme-data/churn/", "mode": "mount"}},
        "outputs": {"model": {"type": "model"}, "report": {}},
        "resources": {"accelerators": "A10G:1", "disk": "100G", "nodes": 2, "spot": True},
        "distribution": {"type": "torchrun", "processes_per_node": 1},
        "queue_timeout": "4h",
    },
    "process": {
        **goldens.JOB,
        "python": "3.11",
        "requirements": ["six==1.17.0"],
        "inputs": {"data": "s3://acme-data/churn/"},
        "outputs": {"clean": {"uri": "s3://acme-data/clean"}, "log": {"mode": "mount"}},
        "resources": {"cpu": 8, "memory": "30Gi"},
    },
    "batch-inference": {
        **goldens.JOB,
        "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/churn:7",
        "inputs": {
            "data": "s3://acme-data/churn/",
            "model": "s3://acme-ml/mlctl/runs/churn-x/0/outputs/churn-x-0/output/model.tar.gz",
        },
        "outputs": {"scores": {}},
    },
}


def planned(kind: str, facts: dict[str, Any] = FACTS, target: dict[str, Any] = TARGET, **fields: Any) -> Plan:
    return goldens.planned(SageMaker(Settings("prod", target, goldens.NOWHERE)), facts, kind=kind, **fields)


def sent(plan: Plan) -> dict[str, Any]:
    """All that goes over the wire."""
    return {**plan.request["parameters"], "Environment": request.record(plan.request, goldens.STAMP)}


@pytest.mark.parametrize("kind", JOBS)
def test_golden(kind: str, tmp_path: Path) -> None:
    plan = planned(kind, **JOBS[kind])
    goldens.compare(kind, plan, sent(plan))


def operation(kind: str) -> str:
    return "CreateTrainingJob" if kind == "train" else "CreateProcessingJob"


@pytest.mark.parametrize("kind", JOBS)
def test_golden_is_what_the_model_takes(kind: str) -> None:
    assert not list(model.problems(model.input_of(operation(kind)), goldens.kept("sagemaker", kind)["sent"]))


def damaged(shape: Any, value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Paths of a request, and what may not stand there: by type, by pattern or enum; None for what may not be missing."""
    kind = shape.type_name
    if at:
        yield at, {"string": 7, "integer": "x", "long": "x", "boolean": "x", "list": {"a": 1}}.get(kind, [1])
    if kind == "structure":
        for name, each in value.items():
            if name in shape.required_members:
                yield (*at, name), None
            yield (*at, f"{name}s"), "unknown"
            yield from damaged(shape.members[name], each, (*at, name))
    elif kind == "list":
        for number, each in enumerate(value):
            yield from damaged(shape.member, each, (*at, number))
    elif kind == "map":
        yield (*at, "x" * 600), "a key that is too long"
        for name, each in value.items():
            yield from damaged(shape.value, each, (*at, name))
    elif kind == "string" and (shape.enum or shape.metadata.get("pattern", r"[\S\s]*") != r"[\S\s]*"):
        yield at, "\n!"
    elif kind == "string" and shape.metadata.get("max"):
        yield at, "x" * 3000
    elif kind == "integer" and "min" in shape.metadata:
        yield at, -1


@pytest.mark.parametrize("kind", JOBS)
def test_damaged_golden_is_refused(kind: str, standin: StandIn) -> None:
    client = boto3.client("sagemaker", region_name=REGION)
    create = client.create_training_job if kind == "train" else client.create_processing_job
    whole = goldens.kept("sagemaker", kind)["sent"]
    tried = 0
    for path, value in damaged(model.input_of(operation(kind)), whole):
        with pytest.raises((ParamValidationError, ClientError), match=r"alidat") as caught:
            create(**goldens.changed(whole, path, value))
        if isinstance(caught.value, ClientError):
            assert caught.value.response["Error"]["Code"] == "ValidationException"
            assert "failed to satisfy constraint" in str(caught.value), path  # not for want of the role or the bucket
        tried += 1
    assert tried > 100
    assert not [
        job for job in standin.jobs.values() if job.name == whole.get("TrainingJobName", whole.get("ProcessingJobName"))
    ]


ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def vpc(subnets: int, groups: int) -> dict[str, list[str]]:
    return {
        "subnets": [f"subnet-{n}" for n in range(subnets)],
        "security_groups": [f"sg-{n}" for n in range(groups)],
    }


REFUSED: dict[str, tuple[type[MlctlError], str, str, dict[str, Any], dict[str, Any]]] = {
    "registry": (Unsupported, "image: got 'busybox:1'.*ECR", "train", {"image": "busybox:1"}, {}),
    "framework": (Unsupported, "did you mean 'pytorch'", "train", {"image": "pytorhc==2.5"}, {}),
    "version": (Unsupported, "sklearn is known in 1.9, 1.4", "train", {"image": "sklearn==9.9"}, {}),
    "python": (Unsupported, "Python 3.12, 3.11, 3.10", "process", {"python": "3.7"}, {}),
    "mpi": (Unsupported, "distribution.type: got 'mpi'", "train", {"distribution": {"type": "mpi"}}, {}),
    "env processes": (
        Unsupported, "torchrun starts more", "train", {"distribution": {"type": "env", "processes_per_node": 2}}, {},
    ),
    "output": (Unsupported, "outputs.m.uri: got 'gs://x/y'", "train", {"outputs": {"m": {"uri": "gs://x/y"}}}, {}),
    "two places": (
        Unsupported, "one place for all", "train", {"outputs": {"a": {"uri": "s3://x/a"}, "b": {}}}, {},
    ),
    "channels": (
        Unsupported, "11 inputs.*takes 10", "process", {"inputs": {f"i{n}": f"s3://x/{n}/" for n in range(11)}}, {},
    ),
    "outputs": (Unsupported, "10 outputs", "process", {"outputs": {f"o{n}": {} for n in range(10)}}, {}),
    "our channel": (InvalidJob, "inputs.mlctl: ", "process", {"inputs": {"mlctl": "s3://x/y/"}}, {}),
    "short queue": (Unsupported, "30m to 28d", "train", {"queue_timeout": "1m"}, {}),
    "long timeout": (InvalidJob, "timeout: got", "process", {"timeout": "20d"}, {}),
    "no such accelerator": (Unsupported, "resources: no instance", "train", {"resources": {"accelerators": "TPU:8"}}, {}),
    "small instance": (
        InvalidJob, "ml.m5.large has 2 cores", "train",
        {"resources": {"cpu": 4}, "platforms": {"sagemaker": {"instance_type": "ml.m5.large"}}}, {},
    ),
    "platform field": (InvalidJob, "instancetype: unknown field", "train", {"platforms": {"sagemaker": {"instancetype": "x"}}}, {}),
    "secret": (InvalidConfig, "secrets.OTHER: it is not set, expected aws-sm:", "train", {"secrets": ["OTHER"]}, {}),
    "secret of env": (
        InvalidConfig, r"secrets.OTHER: got a source of another sort \(env:\)", "train", {"secrets": ["OTHER"]},
        {"secrets": {"OTHER": "env:OTHER"}},
    ),
    "isolated": (
        InvalidConfig, "network_isolation", "train", {"requirements": ["six"]}, {"network_isolation": True},
    ),
    "null byte": (InvalidJob, "null byte", "train", {"env": {"A": "a\0b"}}, {}),
    "long word": (InvalidJob, "more than 100000 bytes", "train", {"env": {"A": "a" * 100_001}}, {}),
    "role": (InvalidConfig, "targets.prod.role: got 7, expected", "train", {}, {"role": 7}),
    "volume": (InvalidConfig, "targets.prod.volume: got 0, expected GB", "train", {}, {"volume": 0}),
    "instance": (InvalidConfig, "targets.prod.instance_type: got 'big'", "train", {}, {"instance_type": "big"}),
    "vpc": (InvalidConfig, "targets.prod.vpc: ", "train", {}, {"vpc": {"subnets": []}}),
    "image setting": (InvalidConfig, "targets.prod.image: got 'x', expected", "train", {}, {"image": "x"}),
    "tag of the target": (InvalidConfig, "targets.prod.tags: a: AWS's tags", "train", {}, {"tags": {"a": "b,c"}}),
    "name of a tag": (InvalidConfig, "targets.prod.tags: a,b: AWS's tags", "train", {}, {"tags": {"a,b": "c"}}),
    "runtime": (InvalidConfig, "targets.prod.max_runtime: got 2419200", "process", {}, {"max_runtime": 28 * 86400}),
    "tags": (
        InvalidJob, "labels: 48 of them, with the target's 1 and mlctl's own 2 are 51 tags, of which there may be 50", "train",
        {"labels": {f"l{n}": "x" for n in range(48)}, "tags": ["nightly"]}, {},
    ),
    "tags of the target": (
        InvalidConfig, "targets.prod.tags: 50 of them, with mlctl's own 1 are 51 tags, of which there may be 50", "train", {},
        {"tags": {f"l{n}": "x" for n in range(50)}},
    ),
    "reserved tag": (InvalidConfig, "targets.prod.tags: AWS:x: .*aws:", "train", {}, {"tags": {"AWS:x": "y"}}),
    "nodes": (Unsupported, "resources.nodes: got 101, .*takes 100", "process", {"resources": {"nodes": 101}}, {}),
    "disk": (Unsupported, "resources.disk: got 16385 GB, .*takes 16384", "process", {"resources": {"disk": "16385G"}}, {}),
    "long image": (InvalidJob, "image: got .*255 characters", "train", {"image": f"{ECR}/{'x' * 240}:1"}, {}),
    "long image setting": (
        InvalidConfig, "targets.prod.image: got .*255 characters", "train", {}, {"image": f"{ECR}/{'x' * 240}:1"},
    ),
    "long input": (
        Unsupported, "inputs.a: its address has 1025 characters, and SageMaker takes 1024", "process",
        {"inputs": {"a": f"s3://x/{'y' * 1017}/"}}, {},
    ),
    "long output": (
        Unsupported, "outputs.a: its address has 1025 characters, and SageMaker takes 1024", "train",
        {"outputs": {"a": {"uri": f"s3://x/{'y' * 1018}"}}}, {},
    ),
    "long output of a processing job": (
        Unsupported, "outputs.a: its address has 10.. characters, and SageMaker takes 1024", "process",
        {"outputs": {"a": {"uri": f"s3://x/{'y' * 1018}"}}}, {},
    ),
    "long prefix": (InvalidConfig, "targets.prod.prefix: got", "train", {}, {"prefix": "p" * 513}),
    "record": (
        Unsupported, r"outputs: what is kept with the run takes \d+ characters, and SageMaker keeps 51200", "train",
        {"outputs": {f"o{n}": {"uri": f"s3://x/{'y' * 600}"} for n in range(80)}}, {},
    ),
    "subnets": (InvalidConfig, "targets.prod.vpc: ", "train", {}, {"vpc": vpc(17, 1)}),
    "security groups": (InvalidConfig, "targets.prod.vpc: ", "train", {}, {"vpc": vpc(1, 6)}),
    "unknown setting": (InvalidConfig, "did you mean 'region'", "train", {}, {"regoin": "eu-west-1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SageMaker.takes - {"secrets"}))
def test_a_setting_without_a_value_is_refused(name: str) -> None:
    """`prefix:` and nothing after it would else be a folder called None."""
    with pytest.raises(InvalidConfig, match=f"targets.prod.{name}: got nothing, expected"):
        SageMaker(Settings("prod", {**TARGET, name: None}, Path("/nonexistent")))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_plan(case: str) -> None:
    error, text, kind, fields, settings = REFUSED[case]
    facts = {**FACTS, "inputs": {name: {"single": False} for name in fields.get("inputs", {})}}
    with pytest.raises(error, match=text):
        planned(kind, facts, {**TARGET, **settings}, **{"name": "churn", "command": "python job.py", **fields})


@pytest.mark.parametrize("kind", ["train", "process"])
def test_as_much_as_there_may_be(kind: str) -> None:
    """Right at SageMaker's limits a job is planned, and the request is what the model takes."""
    most = {
        "labels": {f"l{n}": "x" for n in range(48)},
        "image": f"{ECR}/{'x' * (255 - len(ECR) - 3)}:1",
        "inputs": {"a": f"s3://x/{'y' * 1016}/"},
        "outputs": {
            "a": {"uri": f"s3://x/{'y' * (1017 if kind == 'train' else 990)}"}
        },  # below it each has its own folder
        "resources": {"nodes": 100, "disk": "16384G"},
        "platforms": {"sagemaker": {"hyperparameters": True}},
        "params": {f"p{n}": "x" * (500 if n else 2498) for n in range(100)},
    }
    facts = {**FACTS, "inputs": {"a": {"single": False}}}
    plan = planned(kind, facts, {**TARGET, "vpc": vpc(16, 5)}, name="churn", command="a", **most)
    assert not list(model.problems(model.input_of(operation(kind)), sent(plan)))
    assert len(plan.request["parameters"]["Tags"]) == 50


@pytest.mark.parametrize(("long", "short", "left"), [(1, 100, 100), (1, 101, 0), (0, 101, 0)])
def test_no_more_hyperparameters_than_there_may_be(long: int, short: int, left: int) -> None:
    """A hundred are sent, or none; the file has all."""
    params = {f"p{n}": "x" * (3000 if n < long else 1) for n in range(long + short)}
    plan = planned("train", name="churn", command="a", image="sklearn==1.4", params=params)
    assert len(plan.request["parameters"].get("HyperParameters", {})) == left
    (loss,) = plan.losses
    assert all(name in loss.why for name in list(params)[:long])


def test_what_training_has_is_no_loss() -> None:
    fields = {
        "name": "churn", "command": "a", "queue_timeout": "1h", "resources": {"spot": True},
        "inputs": {"data": {"uri": "s3://x/y/", "mode": "mount"}},
    }  # fmt: skip
    assert [loss.field for loss in planned("train", **fields).losses] == []
    lost = [loss.field for loss in planned("process", **fields).losses]
    assert lost == ["inputs.mode.mount", "resources.spot", "queue_timeout"]


def test_long_params_are_in_the_file_and_the_plan_says_so() -> None:
    plan = planned("train", name="churn", command="a", image="sklearn==1.4", params={"lr": 0.1, "long": "x" * 300_000})
    assert plan.request["parameters"]["HyperParameters"] == {"lr": "0.1"}
    assert [(loss.field, "long" in loss.why) for loss in plan.losses] == [("params", True)]
    params = next(text for address, text in plan.request["files"].items() if address.endswith("/params.json"))
    assert json.loads(params) == {"lr": 0.1, "long": "x" * 300_000}


@pytest.mark.parametrize(
    ("resources", "instance"),
    [
        ({}, "ml.m5.xlarge"), ({"cpu": 1}, "ml.m5.large"), ({"cpu": 2, "memory": "16Gi"}, "ml.r5.large"),
        ({"cpu": 20}, "ml.m5.12xlarge"),
        ({"accelerators": "T4:1"}, "ml.g4dn.xlarge"), ({"accelerators": "A10G:4"}, "ml.g5.12xlarge"),
        ({"accelerators": "A10G:1", "memory": "60Gi"}, "ml.g5.4xlarge"), ({"accelerators": "A100:8"}, "ml.p4d.24xlarge"),
    ],
)  # fmt: skip
def test_smallest_instance_that_has_it(resources: dict[str, Any], instance: str) -> None:
    request = planned("train", name="churn", command="a", resources=resources).request["parameters"]
    assert request["ResourceConfig"]["InstanceType"] == instance


def test_every_known_instance_is_one_of_sagemakers() -> None:
    from mlctl.backends.sagemaker.instances import SIZES

    allowed = model.service().shape_for("TrainingInstanceType").enum
    assert not [name for name in SIZES if name not in allowed]
    processing = model.service().shape_for("ProcessingInstanceType").enum
    assert not [name for name in SIZES if name not in processing and not name.startswith(("ml.p4d", "ml.p5"))]


def test_every_known_image_is_an_address() -> None:
    from mlctl.backends.sagemaker import images

    for name, (accounts, _, tags) in images.FRAMEWORKS.items():
        for region in accounts:
            for version in tags:
                assert images.is_address(images.framework(f"{name}=={version}", region, gpu=False))
    assert images.framework("sklearn==1.4.2", "us-east-1", gpu=False) == (
        "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.4-2-cpu-py3"
    )
    assert images.framework("pytorch==2.5", "cn-north-1", gpu=True) == (
        "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/pytorch-training:2.5.1-gpu-py311"
    )
