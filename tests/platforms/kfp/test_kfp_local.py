"""The pipeline that a submit sends, run by kfp.local in a Docker container; and what the platform tells of it by that container's
own log."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_platform_harness import settings
from kfp_standin import StandIn

import engines
from mlctl import jobfile, lifecycle
from mlctl.backend import Settings
from mlctl.backends.kfp import KFP
from mlctl.runs import Key, Reason, Result, Run, State, Status

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "mlctl-kfp-platform"
SCRIPT = """\
import json, os, pathlib, sys
params = json.load(open(os.environ["MLCTL_PARAMS_FILE"]))
print("training on", pathlib.Path(os.environ["MLCTL_INPUT_DATA"]).read_text().strip(), "at", sys.argv[1])
assert os.environ["NOTE"] == params["note"]
pathlib.Path(os.environ["MLCTL_OUTPUT_MODEL"], "model.json").write_text(json.dumps(params))
with open(os.environ["MLCTL_METRICS_FILE"], "a") as stream:
    stream.write(json.dumps({"name": "loss", "value": params["lr"] * 2, "step": 1}) + "\\n")
sys.exit(params["code"])
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The address of a Docker engine of this module's own, with an empty image."""
    with engines.with_image(IMAGE) as address:
        yield address


@dataclass
class Ended:
    """A run that was executed, and what the platform says of it."""

    run: Run
    status: Status
    result: Result
    lines: tuple[str, ...]
    claim: Path


@pytest.fixture
def executed(engine: str, idle: StandIn, home: Path, tmp_path: Path) -> Any:
    """Submits a job, runs what was sent under kfp.local, and tells the server of its end and its log, as KFP would."""
    import docker
    import docker_engine
    from docker.models.containers import ContainerCollection
    from docker.types import Mount
    from kfp import components, local

    claim = tmp_path / "claim"
    claim.mkdir()
    create = ContainerCollection.create

    def kept(self: Any, *args: Any, **options: Any) -> Any:  # else it asks a container that is gone for its exit code
        return create(self, *args, **{**options, "auto_remove": False})

    def run(**fields: Any) -> Ended:
        backend = KFP(Settings("prod", settings(idle), home))
        job = jobfile.load({"kind": "train", "name": "churn", "image": f"{IMAGE}:latest", **fields})
        started = lifecycle.Execution(job, backend, backend.settings, Key(str(home), "churn")).start()
        (made,) = idle.runs.values()
        sent = made.body["pipeline_spec"]
        loaded = components.load_component_from_text(yaml.safe_dump_all([sent["pipeline_spec"], sent["platform_spec"]]))
        mounts = [*docker_engine.programs(), Mount("/mnt/data", str(claim), "bind")]
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        runner = local.DockerRunner(mounts=mounts, environment=env, network_mode="none")
        local.init(runner, pipeline_root=str(tmp_path / "pipeline-root"), raise_on_error=False)
        loaded(**made.body["runtime_config"]["parameters"])
        with contextlib.closing(docker.DockerClient(engine)) as client:
            (container,) = client.containers.list(all=True)
            code = container.attrs["State"]["ExitCode"]
            made.log[:], made.pod = container.logs(), "x1-system-container-impl-7"
            container.remove()
        made.end("FAILED" if code else "SUCCEEDED")
        status = backend.status([started.run])[started.run]
        assert isinstance(status, Status)
        return Ended(started.run, status, backend.result(started.run), backend.logs(started.run).lines, claim)

    ContainerCollection.create = kept
    yield run
    ContainerCollection.create = create


def job(folder: Path, **params: Any) -> dict[str, Any]:
    (folder / "code").mkdir()
    (folder / "code/train.py").write_text(SCRIPT)
    (folder / "data.csv").write_text("rows\n")
    return {
        "code": str(folder / "code"),
        "command": "python train.py ${{params.lr}}",
        "params": {"lr": 0.1, "note": "{{x}} $(HOME) 'two'\nlines", "code": 0, **params},
        "env": {"NOTE": "${{params.note}}"},
        "inputs": {"data": str(folder / "data.csv")},
        "outputs": {"model": {"type": "model"}},
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pipeline_runs_in_a_container(executed: Any, tmp_path: Path) -> None:
    ended = executed(**job(tmp_path, lr=0.25))
    assert ended.status.state is State.SUCCEEDED
    assert ended.lines == ("training on rows at 0.25",)
    assert ended.result.metrics == {"loss": 0.5}
    address = ended.result.outputs["model"]
    assert address == f"volume://data/mlctl/runs/{ended.run.name.rpartition('-')[0]}/0/outputs/model"
    model = json.loads((ended.claim / address.removeprefix("volume://data/") / "model.json").read_text())
    assert model == {"lr": 0.25, "note": "{{x}} $(HOME) 'two'\nlines", "code": 0}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pipeline_that_fails_in_a_container_tells_its_exit_code(executed: Any, tmp_path: Path) -> None:
    ended = executed(**job(tmp_path, code=7))
    assert (ended.status.state, ended.status.reason, ended.status.exit_code) == (State.FAILED, Reason.ERROR, 7)
    assert ended.result.metrics == {"loss": 0.2}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pipeline_ends_by_its_own_timeout(executed: Any) -> None:
    ended = executed(command=["/bin/sh", "-c", "echo up; exec sleep 300"], timeout="2s")
    assert (ended.status.state, ended.status.reason) == (State.FAILED, Reason.TIMEOUT)
    assert ended.lines[0] == "up"
