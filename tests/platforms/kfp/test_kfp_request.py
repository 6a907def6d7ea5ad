"""What is sent: golden requests by the published API's models, each field of them damaged, and what is refused before that."""

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import goldens
import kfp_model as model
import pytest
import yaml
from kfp import compiler, components, dsl

from mlctl import jobfile
from mlctl.backend import Settings
from mlctl.backends.kfp import KFP, request
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unavailable, Unsupported
from mlctl.runs import Plan

FACTS: dict[str, Any] = {"inputs": {}, "sizes": {}}
TARGET: dict[str, Any] = {
    "host": "https://kfp.acme.com/pipeline",
    "server": "prod-eu",
    "namespace": "growth",
    "experiment": "churn",
    "service_account": "pipeline-runner",
    "image_pull_secrets": ["registry"],
    "node_selector": {"pool": "ml"},
    "tolerations": [{"key": "ml", "operator": "Exists", "effect": "NoSchedule", "toleration_seconds": 60}],
    "accelerators": {"A10G": {"resource": "nvidia.com/gpu", "node_selector": {"gpu": "a10g"}}},
    "volumes": {"data": {"claim": "team-data"}, "lake": {"claim": "lake", "at": "/lake"}},
    "storage": "volume://data/mlctl",
    "secrets": {"TOKEN": "k8s-secret:acme-ml/token"},
}
COMMON: dict[str, Any] = {**goldens.JOB, "description": "Who will leave?", "tags": ["nightly", "{{workflow.name}}"]}
JOBS: dict[str, dict[str, Any]] = {
    "train": {
        **COMMON,
        "image": "registry.acme.com/churn:7",
        "inputs": {"data": {"uri": "volume://lake/churn", "mode": "mount"}},
        "outputs": {"model": {"type": "model"}, "report": {"mode": "mount"}},
        "resources": {"accelerators": "A10G:1", "cpu": 1.5, "memory": "4Gi", "shm": "1Gi"},
    },
    "process": {
        **COMMON,
        "python": "3.11",
        "requirements": ["six==1.17.0"],
        "inputs": {"data": {"uri": "volume://lake/churn.csv", "mode": "download"}},
        "outputs": {"clean": {"uri": "volume://lake/clean"}},
    },
    "batch-inference": {
        **COMMON,
        "inputs": {"data": "volume://data/mlctl/runs/x/0/outputs/clean"},
        "outputs": {"scores-daily": {}},
    },
}


def planned(kind: str, facts: dict[str, Any] = FACTS, target: dict[str, Any] = TARGET, **fields: Any) -> Plan:
    return goldens.planned(KFP(Settings("prod", target, goldens.NOWHERE)), facts, kind=kind, **fields)


def sent(plan: Plan) -> dict[str, Any]:
    """The run, as it goes over the wire."""
    stamp = replace(goldens.STAMP, values={"dag": "a'b {{x}} $(y)"})
    return request.stamped(plan, "11111111-2222-3333-4444-555555555555", stamp)


def script(body: dict[str, Any]) -> str:
    """What the container starts, decoded."""
    (executor,) = body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    return base64.b64decode(executor["container"]["args"][0]).decode()


@pytest.mark.parametrize("kind", JOBS)
def test_golden(kind: str) -> None:
    plan = planned(kind, **JOBS[kind])
    assert plan.request["script"] == script(sent(plan))
    goldens.compare(kind, plan, sent(plan))


def golden(kind: str) -> dict[str, Any]:
    whole: dict[str, Any] = goldens.kept("kfp", kind)
    return dict(whole["sent"])


@pytest.mark.parametrize("kind", JOBS)
def test_golden_is_what_the_model_takes(kind: str) -> None:
    assert model.run(golden(kind)) == []


@pytest.mark.parametrize("kind", JOBS)
def test_golden_is_what_kfp_itself_would_compile(kind: str, tmp_path: Path) -> None:
    """Its compiler, given the component, writes the same pipeline; but for the cache, which is a task's there."""
    spec = golden(kind)["pipeline_spec"]["pipeline_spec"]
    loaded = components.load_component_from_text(json.dumps(spec))

    @dsl.pipeline(name=spec["pipelineInfo"]["name"], description=spec["pipelineInfo"]["description"])
    def pipeline(mlctl: str) -> None:
        task = loaded(mlctl=mlctl).set_caching_options(False)
        if kind == "train":  # which no component has, but each task
            task.set_cpu_request("1.5").set_memory_request("4096Mi").set_memory_limit("4096Mi")
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)

    compiler.Compiler().compile(pipeline, str(tmp_path / "pipeline.yaml"))
    written = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    for each in (written, spec):
        each.pop("sdkVersion")
        for place in (each["root"], *each["components"].values()):
            place["inputDefinitions"]["parameters"]["mlctl"].pop("description", None)
        for task in each["root"]["dag"]["tasks"].values():
            assert not task.pop("cachingOptions").get("enableCache")
    assert written == spec


REQUIRED = ("display_name", "pipeline_spec", "root", "dag", "tasks", "componentRef", "taskInfo", "components", "deploymentSpec",
            "executors", "pipelineInfo", "schemaVersion", "image", "executorLabel", "container")  # fmt: skip


def damaged(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Paths of a request, and what may not stand there; None for what may not be missing."""
    free = at[-1:] in (("labels",), ("annotations",), ("parameters",)) and "inputDefinitions" not in at
    if at and "constant" not in at and at[-2:-1] != ("parameters",):
        yield at, (["x"] if not isinstance(value, list) else {"a": 1})
    if at and at[-1] in REQUIRED and "platform_spec" not in at:
        yield at, None
    if isinstance(value, dict):
        named = at[-1:] in (("components",), ("executors",), ("tasks",), ("platforms",)) or "constant" in at
        if not free and not named and at[-1:] != ("runtimeValue",):
            yield (*at, "unheardOf"), "unknown"
        for name, each in value.items():
            if not (free and "runtime_config" not in at):
                yield from damaged(each, (*at, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from damaged(each, (*at, number))


@pytest.mark.parametrize("kind", JOBS)
def test_damaged_golden_is_refused(kind: str) -> None:
    whole, tried = golden(kind), 0
    for path, value in damaged(whole):
        assert model.run(goldens.changed(whole, path, value)), (path, value)
        tried += 1
    assert tried > 60


@pytest.mark.parametrize("kind", JOBS)
def test_nothing_is_where_kubernetes_or_kfp_would_replace_it(kind: str) -> None:
    body = golden(kind)
    text = json.dumps(body)
    assert "{{" not in text
    assert "$(" not in text
    subprocess.run(["/bin/sh", "-n", "-c", script(body)], check=True)
    assert request.stamp_of(body).values == {"dag": "a'b {{x}} $(y)"}
    tasks = body["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert [task["cachingOptions"] for task in tasks.values()] == [{"enableCache": False}]


REFUSED: dict[str, tuple[type[MlctlError], str, dict[str, Any], dict[str, Any]]] = {
    "object store": (Unsupported, "outputs.m.uri: got 's3://x/y'.*volumes", {"outputs": {"m": {"uri": "s3://x/y"}}}, {}),
    "no storage": (
        InvalidConfig, "targets.prod.storage: it is not set, and the job leaves m", {"outputs": {"m": {}}}, {"storage": None},
    ),
    "no such volume": (Unsupported, "inputs.i: got 'volume://x/y'.*data, lake", {"inputs": {"i": "volume://x/y"}}, {}),
    "out of the volume": (Unsupported, "inputs.i: got 'volume://data/../y'", {"inputs": {"i": "volume://data/../y"}}, {}),
    "accelerator": (Unsupported, "got 'H100', which targets.prod.accelerators", {"resources": {"accelerators": "H100:1"}}, {}),
    "nodes": (Unsupported, "nodes: kfp cannot honour it", {"resources": {"nodes": 2}}, {}),
    "too large": (Unsupported, "command: .*bytes, and KFP takes 100000", {"env": {"A": "a" * 80_000}}, {}),
    "pod": (
        Unsupported, "tags: what is told of the pod has 1.* bytes, and KFP takes 100000",
        {"tags": [f"{n:063}" for n in range(1600)]}, {},
    ),
    "image": (InvalidJob, "image: got 'x:{{y}}', in which", {"image": "x:{{y}}"}, {}),
    "null byte": (InvalidJob, "null byte", {"env": {"A": "a\0b"}}, {}),
    "platform field": (InvalidJob, "platforms.kfp.queue: unknown field", {"platforms": {"kfp": {"queue": "x"}}}, {}),
    "secret": (InvalidConfig, "secrets.OTHER: it is not set, expected k8s-secret:", {"secrets": ["OTHER"]}, {}),
    "secret of env": (
        InvalidConfig, r"secrets.OTHER: got a source of another sort \(env:\)",
        {"secrets": ["OTHER"]}, {"secrets": {"OTHER": "env:X"}},
    ),
    "python": (InvalidConfig, r"targets.prod.image: .*put \{python\}", {"python": "3.11"}, {"image": "acme:1"}),
    "no host": (InvalidConfig, "targets.prod.host: it is not set", {}, {"host": None}),
    "host": (InvalidConfig, "targets.prod.host: got 'kfp.acme.com'", {}, {"host": "kfp.acme.com"}),
    "half a host": (InvalidConfig, r"targets.prod.host: got 'https://\[::1', expected the address", {}, {"host": "https://[::1"}),
    "host with a bad port": (InvalidConfig, "targets.prod.host: got .*99999", {}, {"host": "https://kfp.acme.com:99999"}),
    "token": (InvalidConfig, "targets.prod.token: got 'abc', expected where", {}, {"token": "abc"}),
    "volumes": (InvalidConfig, "targets.prod.volumes: ", {}, {"volumes": {"a": "b"}}),
    "unknown setting": (InvalidConfig, "did you mean 'namespace'", {}, {"namespce": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KFP.takes - {"secrets"}))
def test_a_setting_without_a_value_is_refused(name: str) -> None:
    """`prefix:` and nothing after it would else be a folder called None."""
    with pytest.raises(InvalidConfig, match=f"targets.prod.{name}: got nothing, expected"):
        KFP(Settings("prod", {**TARGET, name: None}, Path("/nonexistent")))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_plan(case: str) -> None:
    error, text, fields, changed = REFUSED[case]
    target = {name: value for name, value in {**TARGET, **changed}.items() if value is not None}
    with pytest.raises(error, match=text):
        planned("train", FACTS, target, **{"name": "churn", "command": "python job.py", **fields})


def test_long_description() -> None:
    """A run's is a column of 255 characters in a server's table; the pipeline's is as long as it is."""
    run = planned("train", name="churn", command="a", description="x" * 300).request["run"]
    assert run["description"] == "x" * 254 + "…"
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["description"] == "x" * 300


def test_files_travel_in_the_run_as_long_as_they_fit(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b"x" * 1000)

    def plan(path: Path) -> Plan:
        target = KFP(Settings("prod", TARGET, tmp_path))
        job = jobfile.load({"kind": "process", "name": "churn", "command": "true", "inputs": {"data": str(path)}})
        return target.plan(job, target.resolve(job), "churn-abcdefghijklmnop-0")

    small = plan(file)
    arguments = sent(small)["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]["exec-churn"]["container"][
        "args"
    ]
    assert arguments[2:] == ["/tmp/mlctl/files/inputs/data/data.csv", base64.b64encode(b"x" * 1000).decode()]
    file.write_bytes(b"x" * 80_000)
    with pytest.raises(Unavailable, match="grew"):
        sent(small)
    with pytest.raises(Unsupported, match=r"KFP takes 100000; build the code into an image, and put data on a volume"):
        plan(file)
    file.unlink()
    with pytest.raises(Unavailable, match=r"data\.csv: No such file"):
        sent(small)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "{{x}}").touch()
    with pytest.raises(Unsupported, match="rename"):
        plan(folder)


def test_importing_the_platform_imports_no_sdk() -> None:
    import sys

    code = (
        "import sys, mlctl.backends.kfp; print([name for name in sys.modules if name.startswith(('kfp', 'urllib3'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
