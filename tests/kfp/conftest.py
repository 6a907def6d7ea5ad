"""KFP's own compiler and executor around a component's command; and a Docker engine of this session's own.

`steps` resolves a compiled task's command as KFP's local executor does, and runs it as a process of this machine: so a
test can kill it at any moment. `engine` gives kfp.local's DockerRunner what it needs, for whole pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kfp_containers import containers, keep_containers
from kfp_harness import PREDICT, PREDICT_SCRIPT, SCRIPT, TRAIN, Steps

import engines

collect_ignore_glob = [] if find_spec("kfp.dsl") else ["test_*.py"]  # these tests have an environment of their own


def pytest_configure(config: pytest.Config) -> None:
    """kfp leaves its Docker client's sockets to the garbage collector."""
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs say that they started, and look for the file `go`."""
    made = tmp_path / "traces"
    made.mkdir()
    monkeypatch.setenv("TRACES", str(made))
    return made


@pytest.fixture
def jobs(project: Path, traces: Path) -> Path:
    """A project with a training whose parameter `mode` says how it goes, and a batch inference."""
    files = {
        "jobs/train.yaml": TRAIN,
        "jobs/predict.yaml": PREDICT,
        "code/train.py": SCRIPT,
        "code/predict.py": PREDICT_SCRIPT,
        "mlctl.yaml": "targets: {here: {backend: local, grace: 1, inherit_env: [TRACES]}}\n"
        "profiles: {dev: [{target: here}]}\n",
    }
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return project


@pytest.fixture
def steps(jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Steps of pipelines over the project; whatever still runs at the end is ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a step unpacks a project
    made = Steps(jobs, tmp_path / "pipeline-root")
    yield made
    for step in made.started:
        if step.process.poll() is None:
            step.process.kill()
            step.process.communicate()


# ---- A Docker engine


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The address of a Docker engine, DOCKER_HOST too, that has the image mlctl-kfp:latest, an empty one (see `containers`)."""
    with engines.with_image("mlctl-kfp") as address:
        yield address


@pytest.fixture
def docker_runner(engine: str, jobs: Path, home: Path, traces: Path, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Makes kfp.local run containers."""
    from kfp import local

    undo = keep_containers()

    def init(**options: Any) -> None:
        env = {"MLCTL_HOME": str(home), "TRACES": str(traces)}
        runner = containers(str(jobs), [str(jobs), str(home), str(traces)], env, hostname="step")
        local.init(runner, pipeline_root=str(tmp_path / "pipeline-root"), **options)

    yield init
    undo()
