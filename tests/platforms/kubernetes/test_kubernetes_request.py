"""What is sent: golden requests against Kubernetes' published schemas; what is escaped, overlaid, and refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import goldens
import kubernetes_validate
import pytest
import yaml

from mlctl import data, jobfile
from mlctl.backend import Settings
from mlctl.backends.kubernetes import Kubernetes, doctor, request
from mlctl.backends.kubernetes.api import Api
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unsupported
from mlctl.runs import Plan, Stamp, Upload
from mlctl.testing import HOSTILE

ROLE = Path(request.__file__).with_name("role.yaml")
NAME = "churn-abcdefghijklmnop-1"
STAMP = Stamp("2" * 64, "3" * 64, "command=123456 kind=abcdef", {"dag": "daily"}, "0123456789abcdef")
FACTS: dict[str, Any] = {"account": "api.example:6443", "namespace": "ml", "inputs": {}, "sizes": {}}
TARGET: dict[str, Any] = {
    "image_pull_secrets": ["registry"],
    "service_account": "jobs",
    "node_selector": {"pool": "ml"},
    "tolerations": [{"key": "ml", "operator": "Exists", "effect": "NoSchedule"}],
    "accelerators": {"A10G": {"resource": "nvidia.com/gpu", "node_selector": {"gpu": "a10g"}}},
    "spot": {"tolerations": [{"key": "spot", "operator": "Exists"}]},
    "priority_class": "batch",
    "queue": "ml",
    "volumes": {
        "data": {"claim": "ml-data"},
        "shared": {"nfs": "files.example:/ml", "at": "/shared", "read_only": True},
        "scratch": {"host": "/var/scratch"},
    },
    "storage": "volume://data/mlctl",
    "template": {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {"containers": [{"name": "job", "securityContext": {"runAsNonRoot": True}}]},
    },
    "secrets": {"TOKEN": "k8s-secret:hub/token"},
    "stage": {
        "image": "registry.example/stage:1",
        "env": {"AWS_ENDPOINT_URL": "https://store.example"},
        "secrets": {"AWS_SECRET_ACCESS_KEY": "k8s-secret:store/key"},
    },
}
COMMON: dict[str, Any] = {
    "name": "churn",
    "command": "python job.py --lr ${{params.lr}}",
    "params": {"lr": 0.1, "note": "two\nlines and $(HOME)"},
    "env": {"MODE": "full ${{params.note}}"},
    "timeout": "2h",
    "labels": {"team": "growth"},
    "tags": ["nightly run"],
}
JOBS: dict[str, dict[str, Any]] = {
    "train": {
        **COMMON,
        "image": "registry.example/torch:2",
        "inputs": {"data": "volume://shared/churn"},
        "outputs": {"model": {"type": "model"}},
        "secrets": ["TOKEN"],
        "resources": {
            "cpu": 4, "memory": "16Gi", "accelerators": "A10G:2", "disk": "50Gi", "shm": "1Gi", "spot": True, "nodes": 2,
        },
        "distribution": {"type": "torchrun", "processes_per_node": 2},
    },
    "process": {
        **COMMON,
        "python": "3.11",
        "requirements": ["six==1.17.0"],
        "inputs": {"data": {"uri": "volume://data/raw/churn.csv", "mode": "download"}},
        "outputs": {"clean": {"uri": "volume://scratch/clean", "mode": "upload"}},
    },
    "batch-inference": {
        **COMMON,
        "image": "registry.example/churn:7",
        "inputs": {"model": "volume://data/mlctl/runs/churn-x/0/outputs/model", "data": "s3://bucket/churn/data.csv"},
        "outputs": {"scores": {"mode": "mount"}, "report": {"uri": "gs://bucket/reports"}},
        "queue_timeout": "1h",
    },
}  # fmt: skip
VERSIONS = [f"1.{minor}" for minor in range(29, int(kubernetes_validate.latest_version().split(".")[1]) + 1)]


def planned(
    kind: str = "process", target: dict[str, Any] | None = None, facts: dict[str, Any] | None = None, **fields: Any
) -> Plan:  # fmt: skip
    """A plan from facts that are written down: nothing is asked of anybody."""
    job = jobfile.load({"kind": kind, "name": "churn", "command": ["true"], **fields}).snapshot(Path("/nonexistent"))
    backend = Kubernetes(Settings("prod", TARGET if target is None else target, Path("/nonexistent")))
    return backend.plan(job, facts or FACTS, NAME)


def golden(kind: str) -> dict[str, Any]:
    asked = planned(kind, **JOBS[kind]).request
    return {**asked, "job": request.stamped(asked["job"], STAMP)}


def script(plan: Plan) -> str:
    """The launch script as the pod gets it."""
    text: str = container(plan)["command"][2]
    return text.replace("$$", "$")


def container(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = plan.request["job"]["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("kind", JOBS)
def test_golden_request(kind: str) -> None:
    assert golden(kind) == goldens.kept("kubernetes", kind)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", JOBS)
def test_golden_request_is_valid_in_every_version(kind: str, version: str) -> None:
    for thing in goldens.kept("kubernetes", kind).values():
        kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_role_and_configmap_are_valid_in_every_version(version: str) -> None:
    kubernetes_validate.validate(yaml.safe_load(ROLE.read_text()), version, strict=True)
    upload = Upload("code.tar.gz", "1" * 64, "configmap:ml/mlctl-" + "1" * 40)
    kubernetes_validate.validate(request.configmap(upload, "QQ=="), version, strict=True)


def paths(thing: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every field of the API's own is; not what is below words that a user chooses."""
    if path and path[-1] in ("annotations", "labels", "nodeSelector", "requests", "limits", "selector"):
        return
    for name, value in (
        thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    ):
        if isinstance(thing, dict):
            yield (*path, name)
        yield from paths(value, (*path, name))


def test_each_field_of_a_golden_request_is_one_that_the_schema_knows() -> None:
    whole = goldens.kept("kubernetes", "train")["job"]
    for path in list(paths(whole))[2:]:  # which schema it is
        damaged = copy.deepcopy(whole)
        inside = damaged
        for name in path[:-1]:
            inside = inside[name]
        inside["noSuchField"] = inside.pop(path[-1])
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(damaged, VERSIONS[-1], strict=True)


def expanded(text: str, variables: dict[str, str]) -> str:
    """As a kubelet does it: `$$` is `$`, `$(NAME)` a variable that there is."""
    return re.sub(
        r"\$(?:(\$)|\(([^)]*)\))",
        lambda match: "$" if match[1] else variables.get(match[2], match[0]),
        text,
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_kubernetes_would_expand_is_escaped(text: str) -> None:
    made = container(
        planned(command=["echo", "${{params.text}}"], params={"text": text}, env={"TEXT": "${{params.text}}"})
    )
    variables = {"HOME": "/root", "PATH": "/bin"}
    assert expanded(made["args"][1], variables) == text
    assert [expanded(each["value"], variables) for each in made["env"] if each["name"] == "TEXT"] == [text]


def test_words_of_the_job_itself_are_escaped_too() -> None:
    made = container(planned(command=["/bin/sh", "-c", "echo $(hostname) $$ $HOME"]))
    assert expanded(made["args"][2], {"hostname": "x"}) == "echo $(hostname) $$ $HOME"


def test_secret_is_a_reference() -> None:
    env = container(planned(secrets=["TOKEN"]))["env"]
    assert {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}} in env


def test_files_of_this_machine_are_configmaps_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    local = data.Local.of(tmp_path)
    facts = {
        **FACTS,
        "inputs": {"data": local.to_json()},
        "sizes": {str(tmp_path / name): 1 for name, _ in local.files},
    }
    plan = planned(facts=facts, inputs={"data": str(tmp_path)})
    spec = plan.request["job"]["spec"]["template"]["spec"]
    sources = next(each for each in spec["volumes"] if each["name"] == "mlctl-files")["projected"]["sources"]
    placed = {each["configMap"]["items"][0]["path"]: each["configMap"]["name"] for each in sources}
    assert placed == {f"inputs/data/{name}": f"mlctl-{digest[:40]}" for name, digest in local.files}
    assert {upload.address for upload in plan.uploads} == {f"configmap:ml/{name}" for name in placed.values()}
    with pytest.raises(Unsupported, match=r"2000000 bytes, and a ConfigMap.*put it on a volume"):
        planned(facts={**facts, "sizes": dict.fromkeys(facts["sizes"], 2_000_000)}, inputs={"data": str(tmp_path)})


def test_template_is_laid_over_by_name() -> None:
    plan = planned(image="x:1")
    spec = plan.request["job"]["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["containers"]] == ["job"]
    assert container(plan)["securityContext"] == {"runAsNonRoot": True}
    assert container(plan)["image"] == "x:1"
    over = {"spec": {"containers": [{"name": "proxy", "image": "p:1"}], "tolerations": [{"key": "more"}]}}
    spec = planned(target={**TARGET, "template": over}).request["job"]["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["containers"]] == ["job", "proxy"]
    assert spec["tolerations"] == [*TARGET["tolerations"], {"key": "more"}]


def test_store_is_reached_by_containers_of_the_stage_image_alone() -> None:
    spec = golden("batch-inference")["job"]["spec"]["template"]["spec"]
    fetch, (own, save) = spec["initContainers"][0], spec["containers"]
    assert (fetch["name"], own["name"], save["name"]) == ("stage-in", "job", "stage-out")
    assert {fetch["image"], save["image"]} == {"registry.example/stage:1"}
    key = {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "store", "key": "key"}}}
    assert key in fetch["env"]
    assert key in save["env"]
    assert not [each for each in own["env"] if each["name"].startswith("AWS")]
    plan = json.loads(save["command"][-1].replace("$$", "$"))
    address = f"gs://bucket/reports/{NAME}/report"
    assert plan == {
        "fetch": [["s3://bucket/churn/data.csv", "/mlctl/inputs/data/data.csv"]],
        "save": [[address, "/mlctl/outputs/report"]],
    }
    env = {each["name"]: each.get("value") for each in own["env"]}
    assert (env["MLCTL_INPUT_DATA"], env["MLCTL_OUTPUT_REPORT"]) == (
        "/mlctl/inputs/data/data.csv",
        "/mlctl/outputs/report",
    )
    assert request.record(golden("batch-inference")["job"])["outputs"]["report"] == address
    only_inputs = planned(inputs={"data": "s3://bucket/x"}).request["job"]["spec"]["template"]["spec"]
    assert [each["name"] for each in only_inputs["containers"]] == ["job"]


def test_store_may_be_the_storage() -> None:
    plan = planned(target={**TARGET, "storage": "s3://bucket/mlctl"}, outputs={"model": {}})
    address = "s3://bucket/mlctl/runs/churn-abcdefghijklmnop/1/outputs/model"
    assert request.record(plan.request["job"])["outputs"] == {"model": address}


def test_spot_without_nodes_for_it_is_a_loss() -> None:
    target = {name: value for name, value in TARGET.items() if name != "spot"}
    assert [loss.field for loss in planned(target=target, resources={"spot": True}).losses] == ["resources.spot"]


def test_fields_that_a_server_drops_are_found() -> None:
    sent = golden("train")["job"]["spec"]
    kept = copy.deepcopy(sent)
    assert request.missing(sent, kept, "spec") == []
    del kept["completionMode"], kept["suspend"], kept["template"]["spec"]["containers"][0]["args"]
    dropped = ["spec.completionMode", "spec.suspend", "spec.template.spec.containers.args"]
    assert sorted(request.missing(sent, kept, "spec")) == dropped


def test_what_a_webhook_puts_in_front_is_no_field_that_was_dropped() -> None:
    sent = golden("train")["job"]["spec"]
    kept = copy.deepcopy(sent)
    pod = kept["template"]["spec"]
    (job,) = pod["containers"]
    for things in (job["env"], job["volumeMounts"], pod["volumes"], pod["tolerations"], pod["containers"]):
        things.insert(0, {"name": "added"} if "name" in things[0] else {"key": "added"})
    assert request.missing(sent, kept, "spec") == []
    del job["volumeMounts"][1], job["args"]
    dropped = ["spec.template.spec.containers.args", "spec.template.spec.containers.volumeMounts"]
    assert sorted(request.missing(sent, kept, "spec")) == dropped


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[MlctlError], str]] = [
    ({}, {"inputs": {"data": "volume://nowhere/x"}}, Unsupported, "volumes: data, shared, scratch"),
    ({}, {"inputs": {"data": "volume://data/../x"}}, Unsupported, r"expected volume://NAME/PATH"),
    ({}, {"outputs": {"model": {"uri": "dbfs:///x"}}}, Unsupported, r"volumes of the target and object stores"),
    ({"stage": None}, {"outputs": {"model": {"uri": "s3://b/x"}}}, Unsupported, r"targets\.prod\.stage names no image"),
    ({"stage": None}, {"inputs": {"data": "s3://b/x"}}, Unsupported, r"targets\.prod\.stage names no image"),
    (
        {},
        {"inputs": {"data": {"uri": "s3://b/x", "mode": "mount"}}},
        Unsupported,
        r"'mount' of 's3://b/x', which is copied",
    ),
    ({}, {"outputs": {"model": {"uri": "s3://b/x", "mode": "mount"}}}, Unsupported, r"which is copied; leave mode out"),
    (
        {"stage": {"image": "x:1", "secrets": {"KEY": "env:KEY"}}},
        {"inputs": {"data": "s3://b/x"}},
        InvalidConfig,
        r"targets\.prod\.stage\.secrets\.KEY: got a source of another sort \(env:\)",
    ),
    ({}, {"outputs": {"model": {"uri": "volume://shared/x"}}}, Unsupported, "read_only"),
    (
        {"storage": "volume://nowhere/mlctl"},
        {"outputs": {"model": {}}},
        InvalidConfig,
        r"targets\.prod\.storage: got 'volume://nowhere.*volumes: data, shared, scratch",
    ),
    ({"storage": None}, {"outputs": {"model": {}}}, InvalidConfig, r"targets\.prod\.storage: it is not set"),
    ({}, {"resources": {"accelerators": "A100"}}, Unsupported, "doesn't name; did you mean 'A10G'"),
    ({}, {"distribution": {"type": "mpi"}}, Unsupported, "torchrun and env are started here"),
    ({"secrets": {}}, {"secrets": ["TOKEN"]}, InvalidConfig, r"secrets\.TOKEN: it is not set, expected k8s-secret"),
    ({"secrets": {"TOKEN": "env:X"}}, {"secrets": ["TOKEN"]}, InvalidConfig, r"another sort \(env:\)"),
    ({"image": "x:1"}, {"python": "3.11"}, InvalidConfig, r"targets\.prod\.image: .* for every Python"),
    ({}, {"params": {"a": "x" * 200_000}}, InvalidJob, "more than 100000 bytes"),
    ({}, {"command": ["a\0b"]}, InvalidJob, "null byte"),
    ({}, {"env": {"A": "\ud800"}}, InvalidJob, "half a character"),
    ({}, {"labels": {"job-name": "x"}}, InvalidJob, "Kubernetes sets a label of that name"),
    ({}, {"platforms": {"kubernetes": {"que": "x"}}}, InvalidJob, "expected queue or priority_class"),
]


@pytest.mark.parametrize(("target", "fields", "error", "text"), REFUSED, ids=range(len(REFUSED)))
def test_refused_before_anything_is_sent(
    target: dict[str, Any], fields: dict[str, Any], error: type[MlctlError], text: str
) -> None:  # fmt: skip
    values = {name: value for name, value in {**TARGET, **target}.items() if value is not None}
    with pytest.raises(error, match=text) as caught:
        planned(target=values, **fields)
    assert "\n" not in str(caught.value)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"namespace": "A B"}, "expected a namespace"),
    ({"ttl": "soon"}, "expected a duration such as 7d"),
    ({"volumes": {"data": {}}}, "expected a mapping of names to"),
    ({"volumes": {"data": {"claim": "a", "host": "/b"}}}, "expected a mapping of names to"),
    ({"storage": "ftp://bucket"}, r"such as volume://data/mlctl"),
    ({"stage": {}}, r"\{image: IMAGE\} with python3"),
    ({"stage": {"image": "x:1", "secret": {}}}, r"\{image: IMAGE\} with python3"),
    ({"accelerators": {"A10G": {}}}, r"nvidia\.com/gpu"),
    ({"template": {"kind": "Pod"}}, "metadata: and spec:"),
    ({"name_space": "x"}, "unknown setting; did you mean 'namespace'"),
]


@pytest.mark.parametrize(("values", "text"), WRONG, ids=range(len(WRONG)))
def test_wrong_setting_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"targets\.prod\.{next(iter(values))}: .*{text}"):
        Kubernetes(Settings("prod", values, Path("/nonexistent")))


@pytest.mark.parametrize("name", sorted(Kubernetes.takes - {"secrets"}))
def test_a_setting_without_a_value_is_refused(name: str) -> None:
    """`prefix:` and nothing after it would else be a folder called None."""
    with pytest.raises(InvalidConfig, match=f"targets.prod.{name}: got nothing, expected"):
        Kubernetes(Settings("prod", {**TARGET, name: None}, Path("/nonexistent")))


def test_kubeconfig_of_the_environment_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads KUBECONFIG once, at its import, which may come long before an Airflow connection is lent."""
    import kubernetes.config  # noqa: F401

    for name in ("one", "two"):
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example:6443"}}],
            "users": [{"name": name, "user": {"token": "t"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"in-{name}"}}],
            "current-context": name,
        }
        (tmp_path / name).write_text(json.dumps(whole))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / name))
        api = Api(Settings("prod", {}, tmp_path))
        assert (api.account, api.namespace) == (f"{name}.example:6443", f"in-{name}")


def test_role_grants_what_doctor_asks_for() -> None:
    granted = {
        (group, resource, verb)
        for rule in yaml.safe_load(ROLE.read_text())["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(group, resource, verb) for group, resource, verbs in doctor.RIGHTS for verb in verbs}
