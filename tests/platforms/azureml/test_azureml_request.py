"""What is sent: golden requests by the SDK's own model, each field of them damaged, and what is refused before it is sent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import azureml_model as model
import goldens
import pytest

from mlctl.backend import Settings
from mlctl.backends.azureml import AzureML, request
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unsupported
from mlctl.runs import Plan, Stamp

FACTS: dict[str, Any] = {"inputs": {"data": {"single": False}, "model": {"single": True}}, "size": ""}
TARGET: dict[str, Any] = {
    "subscription": "00000000-1111-2222-3333-444444444444",
    "resource_group": "ml",
    "workspace": "churn",
    "tags": {"team": "growth"},
    "identity": "managed",
    "identity_client_id": "55555555-1111-2222-3333-444444444444",
    "secrets": {"TOKEN": "azure-kv:acme-ml/token"},
}
OWN = "azureml://subscriptions/00000000-1111-2222-3333-444444444444/resourcegroups/ml/workspaces/churn/datastores"
COMMON: dict[str, Any] = {**goldens.JOB, "description": "Who will leave?"}
JOBS: dict[str, dict[str, Any]] = {
    "train": {
        **COMMON,
        "image": "mcr.microsoft.com/aifx/acpt/stable-ubuntu2004-cu118-py310-torch222:latest",
        "inputs": {"data": {"uri": f"{OWN}/lake/paths/churn/", "mode": "mount"}},
        "outputs": {"model": {"type": "model"}, "report": {"mode": "mount"}},
        "resources": {"accelerators": "A100:1", "nodes": 2, "spot": True, "shm": "8Gi"},
        "distribution": {"type": "torchrun", "processes_per_node": 1},
    },
    "process": {
        **COMMON,
        "python": "3.11",
        "requirements": ["six==1.17.0"],
        "inputs": {"data": "abfss://raw@acmelake.dfs.core.windows.net/churn/"},
        "outputs": {"clean": {"uri": "abfss://clean@acmelake.dfs.core.windows.net/churn"}, "log": {}},
        "resources": {"cpu": 8, "memory": "30Gi"},
    },
    "batch-inference": {
        **COMMON,
        "image": "azureml:scoring:7",
        "inputs": {
            "data": {"uri": f"{OWN}/workspaceblobstore/paths/churn/", "mode": "download"},
            "model": "https://acme.blob.core.windows.net/models/model.pkl",
        },
        "outputs": {"scores-daily": {}},
        "platforms": {"azureml": {"compute": "cpu-cluster"}},
    },
}


def planned(kind: str, facts: dict[str, Any] = FACTS, target: dict[str, Any] = TARGET, **fields: Any) -> Plan:
    return goldens.planned(AzureML(Settings("prod", target, goldens.NOWHERE)), facts, kind=kind, **fields)


def sent(plan: Plan) -> dict[str, Any]:
    """The job, as it goes over the wire."""
    return request.stamped(plan.request, goldens.STAMP)


@pytest.mark.parametrize("kind", JOBS)
def test_golden(kind: str) -> None:
    plan = planned(kind, **JOBS[kind])
    goldens.compare(kind, plan, sent(plan))


@pytest.mark.parametrize("kind", JOBS)
def test_golden_is_what_the_model_takes(kind: str) -> None:
    assert model.job(goldens.kept("azureml", kind)["sent"]) == []
    if environment := goldens.kept("azureml", kind)["request"]["environment"]:
        assert model.environment(environment["body"]) == []


def damaged(hint: Any, value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Paths of a request, and what may not stand there; None for what may not be missing."""
    if at:
        yield at, (["x"] if not isinstance(value, list) else {"a": 1})
    if isinstance(value, dict):
        known = {}
        if model.described(hint):
            known = model.fields(model.variant(hint, value)[0])
            yield (*at, "unheardOf"), "unknown"
        for name, each in value.items():
            inner, required, _ = known.get(name, (model.inside(hint), False, True))
            if required:
                yield (*at, name), None
            yield from damaged(model.plain(inner), each, (*at, name))
    elif isinstance(value, str) and model.limited(hint):
        yield at, "unheard of"


@pytest.mark.parametrize("kind", JOBS)
def test_damaged_golden_is_refused(kind: str) -> None:
    bodies = [(model.models.JobBase, goldens.kept("azureml", kind)["sent"], model.job)]
    if environment := goldens.kept("azureml", kind)["request"]["environment"]:
        bodies.append((model.models.EnvironmentVersion, environment["body"], model.environment))
    tried = 0
    for hint, whole, problems in bodies:
        for path, value in damaged(hint, whole):
            assert problems(goldens.changed(whole, path, value)), (path, value)
            tried += 1
    assert tried > 40


@pytest.mark.parametrize("kind", JOBS)
def test_nothing_of_the_job_is_where_azure_would_expand_it(kind: str) -> None:
    """Each `${{...}}` of the body is an input or output that it has, and its script is one that a shell reads."""
    plan = planned(kind, **JOBS[kind])
    properties = plan.request["body"]["properties"]
    words = properties["command"].removeprefix('sh "${{inputs.mlctl}}/launch.sh" ').split(" ")
    known = {f'"${{{{{sort}.{name}}}}}"' for sort in ("inputs", "outputs") for name in properties[sort]}
    assert set(words) == known
    assert len(words) == len(known)
    assert "${{" not in json.dumps({name: each for name, each in properties.items() if name != "command"})
    script = next(text for address, text in plan.request["files"].items() if address.endswith("/launch.sh"))
    subprocess.run(["/bin/sh", "-n", "-c", script], check=True)


REFUSED: dict[str, tuple[type[MlctlError], str, str, dict[str, Any], dict[str, Any]]] = {
    "image": (Unsupported, "image: got 'azureml:x'.*azureml:NAME:VERSION", "train", {"image": "azureml:x"}, {}),
    "distribution": (
        Unsupported, "torchrun starts more", "train", {"distribution": {"type": "mpi", "processes_per_node": 2}}, {},
    ),
    "output": (Unsupported, "outputs.m.uri: got 's3://x/y'", "train", {"outputs": {"m": {"uri": "s3://x/y"}}}, {}),
    "our input": (InvalidJob, "inputs.mlctl: ", "process", {"inputs": {"mlctl": "https://x/y"}}, {}),
    "https mount": (
        Unsupported, "inputs.i.mode: .*mounts no https:", "train", {"inputs": {"i": {"uri": "https://x/y", "mode": "mount"}}}, {},
    ),
    "accelerator": (Unsupported, "resources: no size known.*A100:1", "train", {"resources": {"accelerators": "TPU:8"}}, {}),
    "small instance": (
        InvalidJob, "Standard_DS2_v2 has 2 cores", "train",
        {"resources": {"cpu": 4}, "platforms": {"azureml": {"instance_type": "Standard_DS2_v2"}}}, {},
    ),
    "small compute": (InvalidJob, "compute 'gpus' is Standard_NC6s_v3: it has 1 V100", "train",
                      {"resources": {"accelerators": "V100:4"}}, {"compute": "gpus"}),
    "two instances": (InvalidJob, "which has its own", "train", {"platforms": {"azureml": {"instance_type": "Standard_DS2_v2"}}},
                      {"compute": "gpus"}),
    "platform field": (InvalidJob, "computer: unknown field", "train", {"platforms": {"azureml": {"computer": "x"}}}, {}),
    "conda and python": (
        InvalidJob, "conda: says all", "train", {"python": "3.11", "platforms": {"azureml": {"conda": {"dependencies": []}}}}, {},
    ),
    "secret": (InvalidConfig, "secrets.OTHER: it is not set, expected azure-kv:", "train", {"secrets": ["OTHER"]}, {}),
    "secret of env": (
        InvalidConfig, r"secrets.OTHER: got a source of another sort \(env:\)", "train", {"secrets": ["OTHER"]},
        {"secrets": {"OTHER": "env:OTHER"}},
    ),
    "secret without identity": (
        InvalidConfig, "targets.prod.identity: the job reads TOKEN.*managed", "train", {"secrets": ["TOKEN"]}, {"identity": "user"},
    ),
    "client id": (InvalidConfig, "targets.prod.identity_client_id: identity: is user", "train", {}, {"identity": "user"}),
    "null byte": (InvalidJob, "null byte", "train", {"env": {"A": "a\0b"}}, {}),
    "long word": (InvalidJob, "more than 100000 bytes", "train", {"env": {"A": "a" * 100_001}}, {}),
    "long tag": (InvalidConfig, "targets.prod.tags: a: Azure ML's tags", "train", {}, {"tags": {"a": "x" * 257}}),
    "tags": (
        InvalidJob, "labels: 48 of them, with the target's 1 and mlctl's own 2 are 51 tags, of which there may be 50", "train",
        {"labels": {f"l{n}": "x" for n in range(48)}, "tags": ["nightly"]}, {"tags": {"a": "b"}},
    ),
    "tags of the target": (
        InvalidConfig, "targets.prod.tags: 50 of them, with mlctl's own 1 are 51 tags, of which there may be 50", "train", {},
        {"tags": {f"l{n}": "x" for n in range(50)}},
    ),
    "long description": (
        InvalidJob, "description: it has 5001 characters, and Azure ML takes 5000", "train", {"description": "x" * 5001}, {},
    ),
    "inputs": (
        Unsupported, "inputs: 200 of them, and mlctl's own 1: Azure ML takes 200", "process",
        {"inputs": {f"i{n}": "https://x/y" for n in range(200)}}, {},
    ),
    "outputs": (
        Unsupported, "outputs: 20 of them, and mlctl's own 1: Azure ML takes 20", "process",
        {"outputs": {f"o{n}": {} for n in range(20)}}, {},
    ),
    "record": (
        Unsupported, r"outputs: what is kept with the run takes \d+ characters, and mlctl keeps 10000", "process",
        {"outputs": {f"o{n}": {"uri": f"wasbs://c@a.blob.core.windows.net/{'y' * 600}"} for n in range(18)}}, {},
    ),
    "subscription": (InvalidConfig, "targets.prod.subscription: got 7, expected the id", "train", {}, {"subscription": 7}),
    "plain http": (InvalidConfig, "targets.prod.resource_manager: ", "train", {}, {"resource_manager": "http://x"}),
    "half an address": (InvalidConfig, "targets.prod.resource_manager: got ", "train", {}, {"resource_manager": "https://[::1"}),
    "environment": (InvalidConfig, "targets.prod.environment: got 'azureml:x'", "train", {}, {"environment": "azureml:x"}),
    "unknown setting": (InvalidConfig, "did you mean 'workspace'", "train", {}, {"workspce": "x"}),
}  # fmt: skip


def test_no_workspace() -> None:
    target = {name: value for name, value in TARGET.items() if name != "workspace"}
    with pytest.raises(InvalidConfig, match=r"targets\.prod\.workspace: it is not set"):
        AzureML(Settings("prod", target, Path("/nonexistent")))


@pytest.mark.parametrize("name", sorted(AzureML.takes - {"secrets"}))
def test_a_setting_without_a_value_is_refused(name: str) -> None:
    """`prefix:` and nothing after it would else be a folder called None."""
    with pytest.raises(InvalidConfig, match=rf"targets\.prod\.{name}: got nothing, expected"):
        AzureML(Settings("prod", {**TARGET, name: None}, Path("/nonexistent")))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_plan(case: str) -> None:
    error, text, kind, fields, settings = REFUSED[case]
    facts = {
        "inputs": {name: {"single": False} for name in fields.get("inputs", {})},
        "size": "Standard_NC6s_v3" if settings.get("compute") else "",
    }
    target = {name: value for name, value in {**TARGET, **settings}.items() if value is not None}
    with pytest.raises(error, match=text):
        planned(kind, facts, target, **{"name": "churn", "command": "python job.py", **fields})


@pytest.mark.parametrize(
    ("resources", "size"),
    [
        ({}, "Standard_E4s_v3"), ({"cpu": 1}, "Standard_DS2_v2"), ({"memory": "30Gi"}, "Standard_E4s_v3"),
        ({"cpu": 20}, "Standard_F32s_v2"), ({"accelerators": "T4:1"}, "Standard_NC4as_T4_v3"),
        ({"accelerators": "T4:4"}, "Standard_NC64as_T4_v3"), ({"accelerators": "H100:8"}, "Standard_ND96isr_H100_v5"),
    ],
)  # fmt: skip
def test_smallest_size_that_has_it(resources: dict[str, Any], size: str) -> None:
    body = planned("train", name="churn", command="a", resources=resources).request["body"]
    assert body["properties"]["resources"]["instanceType"] == size
    assert body["properties"]["queueSettings"] == {"jobTier": "Standard"}


def test_compute_of_unknown_size_is_a_loss_and_so_is_spot_there() -> None:
    fields = {"name": "churn", "command": "a", "resources": {"cpu": 2, "spot": True}}
    plan = planned("train", {"inputs": {}, "size": "Standard_X9"}, {**TARGET, "compute": "cpus"}, **fields)
    assert [loss.field for loss in plan.losses] == ["resources.cpu", "resources.spot"]
    assert planned("train", **fields).losses == ()
    assert planned("train", **fields).request["body"]["properties"]["queueSettings"] == {"jobTier": "Spot"}


def test_same_environment_has_the_same_name_and_another_has_another() -> None:
    def of(**fields: Any) -> str:
        return str(planned("train", name="churn", command="a", **fields).request["body"]["properties"]["environmentId"])

    assert of(python="3.11", requirements=["six"]) == of(python="3.11", requirements=["six"], params={"lr": 1})
    assert (
        len({of(python="3.11"), of(python="3.12"), of(python="3.11", requirements=["six"]), of(image="busybox:1")}) == 4
    )
    conda = {"channels": ["conda-forge"], "dependencies": ["python=3.11", "scikit-learn"]}
    made = planned("train", name="churn", command="a", platforms={"azureml": {"conda": conda}}).request["environment"]
    assert json.loads(made["body"]["properties"]["condaFile"]) == conda


def test_record_comes_back_and_is_bounded() -> None:
    plan = planned("train", **JOBS["train"])
    stamp = Stamp("k" * 64, "d" * 64, "", {"dag": "x" * 256, "note": "ü" * 256}, "n" * 16)
    body = request.stamped(plan.request, stamp)
    assert all(len(text) <= request.PIECE for text in body["properties"]["properties"].values())
    kept = request.recorded(body)
    assert Stamp.of_json(json.dumps(kept["stamp"])) == stamp
    assert (
        kept["outputs"]["model"] == f"{OWN}/workspaceblobstore/paths/mlctl/runs/churn-abcdefghijklmnop/1/outputs/model"
    )
    with pytest.raises(ValueError, match="mlctl keeps 10000"):
        request.stamped(plan.request, Stamp("k", "d", "p" * 12_000))
    with pytest.raises(ValueError):
        request.recorded({"properties": {"properties": {}}})
