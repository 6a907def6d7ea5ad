"""Runs a job of the stand-in's as SageMaker's own local mode does: the maker's SDK takes the request that was sent, fills
/opt/ml of a container from S3, starts it by docker-compose, and puts what it leaves into S3.

Local mode has no word for two fields, which are done here: an output that is to be uploaded on the way is uploaded at the
end, and the folder of checkpoints is fetched from the container. It has no CloudWatch either: the container's log is put
there once it ended. Every image is the one given, under the address that the request names.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sagemaker_harness import CREDENTIALS
from sagemaker_jobs import Attempt
from sagemaker_served import serving
from sagemaker_standin import Job, StandIn

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".envs/sagemaker-local/bin/python"
SDK = Path(__file__).with_name("sagemaker_sdk.py")
PATIENCE = 240  # seconds for an image's parts to be downloaded


class Containers:
    """What becomes of the jobs of one stand-in; `folder` holds what local mode writes, `client` is Docker's."""

    def __init__(self, folder: Path, client: Any, image: str) -> None:
        self.folder, self.client, self.image = folder, client, image

    def __call__(self, standin: StandIn, job: Job) -> None:
        try:
            _Contained(self.folder / job.name, self.client, self.image, standin, job).run()
        except Exception as error:
            job.end("Failed", reason=f"InternalServerError: {error!r}")


class _Contained(Attempt):
    def __init__(self, folder: Path, client: Any, image: str, standin: StandIn, job: Job) -> None:
        super().__init__(folder, standin, job)
        self.client, self.base = client, image

    def run(self) -> None:
        job = self.job
        self.folder.mkdir(parents=True)
        asked = job.request["AlgorithmSpecification" if self.training else "AppSpecification"]
        self.client.images.get(self.base).tag(asked["TrainingImage" if self.training else "ImageUri"])
        job.begin()
        code, said = self._local_mode()
        container = self._container()
        if container is None:
            raise RuntimeError(f"local mode started no container: {said[-2000:]}")
        try:
            self._log("algo-1", io.BytesIO(container.logs().replace(b"\r\n", b"\n")))
            if checkpoint := job.request.get("CheckpointConfig"):
                self._upload(self._out_of(container, checkpoint["LocalPath"]), checkpoint["S3Uri"])
            ended = container.attrs["State"]["ExitCode"]
        finally:
            container.remove(force=True, v=True)
        if job.stopping.is_set():
            job.end("Stopped")
        elif ended:
            job.end("Failed", reason=f"AlgorithmError: , exit code: {ended}")
        elif code:
            raise RuntimeError(f"the job succeeded, and local mode failed: {said[-2000:]}")
        else:
            job.end("Completed")

    def _local_mode(self) -> tuple[int, str]:
        """To its end, or the job's stop; its exit code, and what it said."""
        variables = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", *CREDENTIALS, "AWS_ENDPOINT_URL")}
        env = {**variables, "HOME": str(self.folder), "TMPDIR": str(self.folder), "AWS_DEFAULT_REGION": self.job.region}
        log = self.folder / "local-mode.log"
        with (
            log.open("wb") as out,
            subprocess.Popen(
                [PYTHON, SDK, self.job.kind], env=env, stdin=subprocess.PIPE, stdout=out, stderr=out
            ) as process,
        ):
            assert process.stdin
            process.stdin.write(json.dumps(known(self.job.request)).encode())
            process.stdin.close()
            while process.poll() is None:
                if self.job.stopping.wait(0.1) and (container := self._container()):
                    container.kill()  # docker-compose ends with it
                    break
        return process.returncode, log.read_text(errors="replace")

    def _container(self) -> Any:
        """The job's: docker-compose notes on it where its file is, which local mode wrote below our folder."""
        for one in self.client.containers.list(all=True):
            if str(self.folder) in one.labels.get("com.docker.compose.project.config_files", ""):
                return one
        return None

    def _out_of(self, container: Any, path: str) -> Path:
        """A copy of a folder of the container's."""
        pieces, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            tar.extractall(self.folder / "fetched")
        return self.folder / "fetched" / Path(path).name


def known(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the one word changed that local mode refuses; what it doesn't know besides, it passes over."""
    made = copy.deepcopy(dict(request))
    for one in made.get("ProcessingOutputConfig", {}).get("Outputs", []):
        one["S3Output"]["S3UploadMode"] = "EndOfJob"
    return made


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The variables and the target that reach a stand-in whose jobs run so, by a Docker engine of its own."""
    import docker
    import docker_engine

    with docker_engine.own() as address, contextlib.closing(docker.DockerClient(address)) as client:
        os.environ["DOCKER_HOST"] = address
        try:
            with serving(Containers(folder / "jobs", client, _image(client))) as reached:
                yield reached
        finally:
            client.networks.prune()  # local mode's: a bridge of this machine's, which outlives the engine


def _image(client: Any) -> str:
    """One with Python and pip, and the large of what the examples require, as AWS's have. The small is the job's to install,
    from files of the image: there is no way out of local mode's network here."""
    import base_image

    base_image.make(client, "base")
    wanted = (ROOT / "examples/01-local/requirements.txt").read_text().split()
    large, small = (
        " ".join(each for each in wanted if each.startswith(("numpy", "scipy", "scikit-learn")) == chosen)
        for chosen in (True, False)
    )
    assert large and small
    pip = "python3 -m pip --quiet --no-input"
    script = f"{pip} download --no-deps --dest /wheels {small}; {pip} install --no-deps {large}"
    container = client.containers.run("base", ["/bin/sh", "-ec", script], network_mode="host", detach=True)
    try:
        assert container.wait(timeout=PATIENCE)["StatusCode"] == 0, container.logs().decode()
        container.commit("framework", changes=["ENV PIP_FIND_LINKS=/wheels PIP_NO_INDEX=1"])
    finally:
        container.remove(force=True)
    return "framework"
