"""The KFP pipeline of examples/04-orchestrators on this machine, by kfp.local and Docker.

Runs in KFP's environment and in that folder. The engine that DOCKER_HOST names or that answers at Docker's own socket;
else, as root, one of our own for this run. The launcher's image is an empty one with this machine's programs and this
checkout mounted: no registry is asked.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.types import Mount
from kfp import local

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/services"))
import docker_engine  # noqa: E402

EXAMPLE = Path.cwd()  # examples/04-orchestrators, or a copy of it
IMAGE = "mlctl-kfp"


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """The engine that there is; else one of our own."""
    with contextlib.ExitStack() as stack:
        try:
            client = docker.from_env()
        except docker.errors.DockerException:
            os.environ["DOCKER_HOST"] = stack.enter_context(docker_engine.own())
            client = docker.from_env()
        yield stack.enter_context(contextlib.closing(client))


def main() -> None:
    """Runs the pipeline; prints where its model is."""
    home = os.environ["MLCTL_HOME"]
    with engine() as client, tempfile.TemporaryDirectory(prefix="mlctl-") as root:
        docker_engine.empty_image(client, IMAGE)
        Path(home).mkdir(parents=True, exist_ok=True)
        env = {"PATH": os.environ["PATH"], "MLCTL_HOME": home, "HOME": "/tmp"}
        for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE"):
            if name in os.environ:
                env[name] = os.environ[name]
        runner = local.DockerRunner(
            mounts=[*docker_engine.programs(), Mount(home, home, "bind")],
            environment=env,
            working_dir=str(EXAMPLE),
            network_mode="host",
        )
        local.init(runner, pipeline_root=root)
        sys.path.insert(0, str(EXAMPLE))
        from kfp_pipeline import digits

        print(digits().output.uri)


if __name__ == "__main__":
    main()
