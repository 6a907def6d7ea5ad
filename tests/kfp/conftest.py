"""KFP's own compiler and executor around a component's command; and a Docker engine of this session's own.

`steps` resolves a compiled task's command as KFP's local executor does, and runs it as a process of this machine: so a
test can kill it at any moment. `engine` gives kfp.local's DockerRunner what it needs, for whole pipelines.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kfp_harness import BIN, PREDICT, PREDICT_SCRIPT, ROOT, SCRIPT, TRAIN, Steps, until

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
def steps(jobs: Path, tmp_path: Path) -> Iterator[Steps]:
    """Steps of pipelines over the project; whatever still runs at the end is ended."""
    made = Steps(jobs, tmp_path / "pipeline-root")
    yield made
    for step in made.started:
        if step.process.poll() is None:
            step.process.kill()
            step.process.communicate()


# ---- A Docker engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Docker engine that has the image mlctl-kfp:latest, an empty one (see `docker_runner`)."""
    import docker

    folder = Path("/tmp", f"mlctl-dockerd-{os.getpid()}")  # a socket's path has at most 107 characters
    if not shutil.which("dockerd") and os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)
        subprocess.run(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", "docker.io", "iptables"], check=False, **quiet
        )
    if not shutil.which("dockerd") or os.getuid() != 0:
        pytest.skip("needs root and Docker's engine, dockerd")
    folder.mkdir()
    address = f"unix://{folder}/docker.sock"
    words = ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "-H", address]
    words += ["--pidfile", folder / "pid", "--bridge=none", "--iptables=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or _answers(folder / "docker.sock"))
        assert process.poll() is None, (folder / "log").read_text()
        client = docker.DockerClient(address)
        empty = io.BytesIO()
        with tarfile.open(fileobj=empty, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("empty"))
        client.api.import_image_from_data(empty.getvalue(), repository="mlctl-kfp", tag="latest")
        yield address
        for container in client.containers.list(all=True):
            container.remove(force=True)
        client.close()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True
    return False


@pytest.fixture
def docker_runner(
    engine: str, jobs: Path, home: Path, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Makes kfp.local run containers: this machine's own programs, read only, in an empty image's place."""
    from docker.types import Mount
    from kfp import local

    monkeypatch.setenv("DOCKER_HOST", engine)
    shared = ["/usr", "/bin", "/lib", "/lib64", sys.base_prefix, str(ROOT)]
    mounts = [Mount(path, os.path.realpath(path), "bind", read_only=True) for path in shared if Path(path).exists()]
    mounts += [Mount(str(path), str(path), "bind") for path in (jobs, home, traces)]
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "MLCTL_HOME": str(home), "TRACES": str(traces), "HOME": "/tmp"}

    def init(**options: Any) -> None:
        runner = local.DockerRunner(
            mounts=mounts, environment=env, working_dir=str(jobs), network_mode="none", hostname="step"
        )
        local.init(runner, pipeline_root=str(tmp_path / "pipeline-root"), **options)

    return init
