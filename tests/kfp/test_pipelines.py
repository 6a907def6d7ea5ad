"""Components in pipelines: what KFP's compiler makes of them, and whole pipelines in real containers."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components, dsl
from kfp_containers import BIN, ROOT
from kfp_harness import COMPONENTS, Steps, starts, until

import mlctl_kfp
from mlctl.job import KINDS

JOB = {"job": "jobs/train.yaml"}
TOLD = {
    "pipeline_job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    "pipeline_task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
}


@pytest.fixture
def component() -> Callable[[str], Any]:
    """A component as its users load it."""
    return lambda kind: components.load_component_from_file(str(COMPONENTS / f"{kind}.yaml"))


def compiled(pipeline: Any, tmp_path: Path) -> dict[str, Any]:
    """What the compiler writes."""
    compiler.Compiler().compile(pipeline, str(tmp_path / "pipeline.yaml"))
    found: dict[str, Any] = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    return found


# ---- The components


def mlctl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "mlctl", *words], capture_output=True, text=True, check=False)


def test_components_are_as_generated(tmp_path: Path) -> None:
    assert mlctl("kfp", "components", COMPONENTS, "--check").returncode == 0
    assert {path.stem for path in COMPONENTS.iterdir()} == set(KINDS)
    said = mlctl("kfp", "components", tmp_path, "--image", "registry/mlctl-kfp:1")
    assert said.returncode == 0 and said.stdout.count("written") == len(KINDS)
    executors = [yaml.safe_load(path.read_text())["deploymentSpec"]["executors"] for path in tmp_path.iterdir()]
    assert {one["container"]["image"] for each in executors for one in each.values()} == {"registry/mlctl-kfp:1"}
    assert mlctl("kfp", "components", tmp_path, "--check").returncode == 1, "of another image"


def test_components_are_what_kfp_would_write(component: Callable[[str], Any], tmp_path: Path) -> None:
    """KFP's compiler, given the loaded component, writes the same document: nothing of it is lost on the way."""
    for kind in KINDS:
        compiler.Compiler().compile(component(kind), str(tmp_path / "again.yaml"))
        assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == yaml.safe_load(
            (COMPONENTS / f"{kind}.yaml").read_text()
        )


def test_components_load_without_mlctl(tmp_path: Path) -> None:
    script = "import sys; sys.modules['mlctl'] = sys.modules['mlctl_kfp'] = None\n" + (
        "from kfp import components\nfor path in sys.argv[1:]: print(components.load_component_from_file(path).name)"
    )
    words = [sys.executable, "-c", script, *sorted(map(str, COMPONENTS.iterdir()))]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == sorted(KINDS)


def test_components_load_from_a_url() -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(COMPONENTS))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        loaded = components.load_component_from_url(f"http://127.0.0.1:{server.server_port}/train.yaml")
        server.shutdown()
    assert loaded.name == "train"


def test_types(component: Callable[[str], Any]) -> None:
    """An artifact of another type, and a parameter that isn't there, are refused when the pipeline is written."""
    process, train, predict = (component(kind) for kind in ("process", "train", "batch-inference"))

    @dsl.pipeline
    def fits() -> None:
        data = process(**JOB, **TOLD)
        model = train(**JOB, **TOLD, input_dataset=data.outputs["dataset"])
        predict(**JOB, **TOLD, input_model=model.outputs["model"], input_dataset=data.outputs["dataset"])

    with pytest.raises(Exception, match="incompatible"):

        @dsl.pipeline
        def crossed() -> None:
            data = process(**JOB, **TOLD)
            predict(**JOB, **TOLD, input_model=data.outputs["dataset"])

    with pytest.raises(TypeError, match="pipeline_job_id"):

        @dsl.pipeline
        def untold() -> None:
            train(**JOB)


def test_cache_can_not_answer_in_the_jobs_place(component: Callable[[str], Any], tmp_path: Path) -> None:
    """A server's driver puts the run's id into each task's inputs before it makes the cache's fingerprint of them."""

    @dsl.pipeline
    def pipeline() -> None:
        component("train")(**JOB, **TOLD)
        mlctl_kfp.step("train", **JOB)

    tasks = compiled(pipeline, tmp_path)["root"]["dag"]["tasks"]
    for task in tasks.values():
        given = task["inputs"]["parameters"]
        assert given["pipeline_job_id"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
        assert given["pipeline_task_name"] == {"runtimeValue": {"constant": "{{$.pipeline_task_name}}"}}
    assert tasks["train"]["cachingOptions"] == {"enableCache": True}
    assert tasks["train-2"]["cachingOptions"] == {}, "and `step` turns it off"


# ---- Pipelines in containers


def test_pipeline(docker_runner: Callable[..., None], traces: Path, component: Callable[[str], Any]) -> None:
    """Train, then predict, each in a container of the launcher's image; types, metrics and lineage are KFP's own."""
    docker_runner()

    @dsl.pipeline
    def pipeline(lr: float = 0.1) -> dsl.Dataset:
        trained = component("train")(**JOB, **TOLD, params={"lr": lr})
        predicted = component("batch-inference")(job="jobs/predict.yaml", **TOLD, input_model=trained.outputs["model"])
        return predicted.outputs["dataset"]

    task = pipeline(lr=0.75)
    assert Path(task.output.path, "predictions.csv").read_text() == "lr,0.75\n"
    assert task.output.metadata["mlctl_run"].startswith("local://step/")
    assert len(starts(traces)) == 1


def test_loop(docker_runner: Callable[..., None], traces: Path, component: Callable[[str], Any]) -> None:
    """Iterations share the run and the task: what tells them apart is their parameters, or `key`."""
    docker_runner()

    @dsl.pipeline
    def pipeline() -> None:
        with dsl.ParallelFor(["a", "b"]) as item:
            component("train")(**JOB, **TOLD, key=item)

    pipeline()
    assert len(set(starts(traces))) == 2


def test_killed_container(
    docker_runner: Callable[..., None], engine: str, traces: Path, component: Callable[[str], Any]
) -> None:
    """It takes the local platform's job along, as a pod does; KFP's retry goes on with the next attempt, under the same
    key."""
    import docker

    docker_runner()

    @dsl.pipeline
    def pipeline() -> str:
        task = component("train")(**JOB, **TOLD, params={"mode": "wait"})
        return task.set_retry(1, backoff_duration="0s").outputs["run"]

    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(pipeline().output), daemon=True)
    thread.start()
    until(lambda: starts(traces))
    with contextlib.closing(docker.DockerClient(engine)) as client:
        (container,) = client.containers.list()
        container.kill("SIGKILL")
    until(lambda: len(starts(traces)) == 2)
    (traces / "go").touch()
    until(lambda: answers)
    first, second = starts(traces)
    assert answers == [second]
    assert first.removesuffix("-0") == second.removesuffix("-1")


# ---- A job as a native step


def test_native(docker_runner: Callable[..., None], jobs: Path, traces: Path, tmp_path: Path) -> None:
    """The job's image and command, typed; no launcher, and nothing of mlctl in the container."""
    (jobs / "jobs/native.yaml").write_text(
        "kind: train\nname: native\nimage: mlctl-kfp:latest\n"
        'command: {shell: \'printf "%s|%s|%s" "$NOTE" "$LR" "$*" >"$MLCTL_OUTPUT_MODEL/out"; : >"$MLCTL_METRICS_FILE"\'}\n'
        "params: {lr: 0.1, note: {type: string, default: hi}}\n"
        "env: {NOTE: '${{params.note}}', LR: '${{params.lr}}'}\n"
        "outputs: {model: {}}\n"
        "resources: {cpu: 2, memory: 1Gi}\ntimeout: 1h\n"
    )
    native = mlctl_kfp.component(jobs / "jobs/native.yaml")
    docker_runner()
    note = 'a\'; echo foo "$HOME" $(id) `id`\n{{workflow.name}}'

    @dsl.pipeline
    def pipeline() -> None:
        native(note=note)

    spec = compiled(pipeline, tmp_path)
    (executor,) = spec["deploymentSpec"]["executors"].values()
    assert executor["container"]["resources"]["resourceCpuLimit"] == "2"
    assert executor["container"]["resources"]["resourceMemoryLimit"] == "1024Mi"
    assert "mlctl" not in executor["container"]["command"][0]
    (declared,) = spec["components"].values()
    assert declared["outputDefinitions"]["artifacts"]["model"]["artifactType"]["schemaTitle"] == "system.Model"
    assert declared["inputDefinitions"]["parameters"]["lr"]["parameterType"] == "NUMBER_DOUBLE"
    with pytest.warns(UserWarning, match="have no effect in the current local runner"):
        pipeline()
    (written,) = (tmp_path / "pipeline-root").glob("*/native/model/out")
    assert written.read_text() == f"{note}|0.1|"


def test_native_values(steps: Steps, tmp_path: Path) -> None:
    """Parameters of every type, inputs and outputs reach the command as words, whatever they hold."""
    job = {
        "kind": "process",
        "name": "values",
        "image": "a/b",
        "command": [
            sys.executable,
            "-c",
            "import json, os, sys; env = {k: v for k, v in os.environ.items() if k.startswith('MLCTL_')};"
            "json.dump([sys.argv[1:], env, os.path.isdir(sys.argv[-1])], sys.stdout)",
            *(f"${{{{params.{name}}}}}" for name in ("text", "whole", "real", "yes", "many", "more")),
            "in=${{inputs.data}}",
            "${{outputs.out-1}}",
        ],
        "params": {
            "text": "",
            "whole": 3,
            "real": 0.5,
            "yes": True,
            "many": [1],
            "more": {"type": "object", "default": {"a": 1}},
        },
        "inputs": {"data": {"type": "dataset"}},
        "outputs": {"out-1": {}},
    }
    native = mlctl_kfp.component(job)
    hostile = 'a\'; echo foo "$HOME" $(id) `id`\n{{workflow.name}} ünï'
    (tmp_path / "data").touch()
    given = {"text": hostile, "many": ["x'", 2], "data": dsl.Dataset(name="data", uri=str(tmp_path / "data"))}
    ended = steps.resolved(native.component, given, task="values")
    words, env, folder = json.loads(ended.end().log)
    assert words[:4] == [hostile, "3", "0.5", "true"]
    assert [json.loads(words[4]), json.loads(words[5])] == [["x'", 2], {"a": 1}]
    out = str(steps.root / "run-1/values/out-1")
    assert words[6:] == [f"in={tmp_path}/data", out] and folder
    assert (env["MLCTL_INPUT_DATA"], env["MLCTL_OUTPUT_OUT_1"]) == (f"{tmp_path}/data", out)
    assert Path(env["MLCTL_CHECKPOINT_DIR"]).is_dir() and env["MLCTL_METRICS_FILE"].endswith("/values/metrics")
    Path(env["MLCTL_CHECKPOINT_DIR"]).rmdir()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("", "image: a native step needs one"),
        ("image: a/b\ncode: .\n", "build it into an image"),
        ("image: a/b\nsecrets: [TOKEN]\n", "secrets: TOKEN: a native step has none"),
        ("image: a/b\nparams: {lr: 1}\n", "neither command: nor env: takes it"),
        ("image: a/b\nenv: {A: '${{params.n}}'}\nparams: {n: 9007199254740993}\n", "params.n: got 9007199254740993"),
        ("image: a/b\nenv: {A: '{{workflow.name}}'}\n", "means something to Kubernetes or KFP"),
        ("image: a/b\nenv: {A: $(HOME)}\n", "means something to Kubernetes or KFP"),
        ("image: a/b\nresources: {accelerators: A10G}\n", "expected a resource of Kubernetes"),
        ("image: a/b\nresources: {nodes: 2}\n", "kfp cannot honour it"),
        ("image: a/b\noutputs: {model: s3://b/m}\n", "kfp cannot honour it"),
        ("image: a/b\ninputs: {data: a}\noutputs: {data: {}}\n", "KFP has one name for both"),
    ],
)
def test_native_refuses(project: Path, change: str, says: str) -> None:
    from mlctl.errors import InvalidJob

    (project / "job.yaml").write_text(f"kind: train\nname: x\ncommand: 'true'\n{change}")
    with pytest.raises(InvalidJob, match="job") as caught:
        mlctl_kfp.component(project / "job.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lrr": 1}, "lrr: the job has no such name; did you mean 'lr'?"),
        ({"lr": -1.0}, "params.lr: got -1.0, expected at least 0"),
        ({"lr": "fast"}, "params.lr: got 'fast', expected a number"),
        ({"o": {"a": [2**53 + 1]}}, "params.o: got 9007199254740993, and KFP keeps whole numbers up to 2**53 only"),
    ],
)
def test_native_value(given: dict[str, Any], says: str) -> None:
    """A value that stands in the pipeline is checked as everywhere; one that only its run knows has KFP's type."""
    from mlctl.errors import InvalidJob

    params = {"lr": {"type": "number", "default": 0.1, "minimum": 0}, "o": {"type": "object", "default": {"a": 2**53}}}
    native = mlctl_kfp.component(
        {"kind": "train", "name": "x", "image": "a/b", "command": "a ${{params.lr}} ${{params.o}}", "params": params}
    )
    with pytest.raises(InvalidJob) as caught:

        @dsl.pipeline
        def wrong() -> None:
            native(**given)

    assert says in str(caught.value)

    @dsl.pipeline
    def unknown(lr: float) -> None:
        native(lr=lr)


@pytest.mark.parametrize("where", ["mapping", "list", "text"])
def test_native_value_inside_another(where: str) -> None:
    """KFP leaves a value of the pipeline's there as a placeholder, or fills it in: as it happens."""
    from mlctl.errors import Unsupported

    params = {"text": "", "many": {"type": "array", "default": []}, "more": {"type": "object", "default": {}}}
    words = " ".join(f"${{{{params.{name}}}}}" for name in params)
    native = mlctl_kfp.component(
        {"kind": "train", "name": "x", "image": "a/b", "command": f"a {words}", "params": params}
    )
    with pytest.raises(Unsupported, match="has a value of the pipeline inside a text, a mapping or a list"):

        @dsl.pipeline
        def inside(lr: str) -> None:
            native(**{"mapping": {"more": {"lr": lr}}, "list": {"many": [lr]}, "text": {"text": f"at {lr}"}}[where])

    @dsl.pipeline
    def alone(text: str, many: list, more: dict) -> None:
        native(text=text, many=many, more=more)


def test_native_is_admitted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chokepoint's no is the compiler's."""
    from mlctl.errors import Denied

    def refuse(job: Any, plan: Any) -> Any:
        raise Denied(f"{job.name}: not today")

    (project / "job.yaml").write_text("kind: train\nname: x\nimage: a/b\ncommand: 'true'\n")
    assert mlctl_kfp.component(project / "job.yaml").component.name == "x"
    monkeypatch.setattr("mlctl_kfp.native.admit", refuse)
    with pytest.raises(Denied, match="not today"):
        mlctl_kfp.component(project / "job.yaml")


def test_example(tmp_path: Path) -> None:
    """The example compiles as it stands."""
    script = ROOT / "examples/04-orchestrators/kfp_pipeline.py"
    subprocess.run([sys.executable, script, tmp_path / "digits.yaml"], check=True, capture_output=True)
    tasks = yaml.safe_load((tmp_path / "digits.yaml").read_text())["root"]["dag"]["tasks"]
    assert set(tasks) == {"process", "train", "batch-inference"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """kfp.local keeps its settings for the process: none are left behind."""
    yield
    from kfp.local import config

    config.LocalExecutionConfig.instance = None
