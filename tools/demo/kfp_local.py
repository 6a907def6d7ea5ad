"""The KFP pipeline of examples/04-orchestrators on this machine, by kfp.local and Docker. Runs in KFP's environment.

The engine that DOCKER_HOST names or that answers at Docker's own socket; else, as root, one of our own for this run. The
launcher's image is an empty one with this machine's programs and this checkout mounted: no registry is asked.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.types import Mount
from kfp import local

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/04-orchestrators"
IMAGE = "mlctl-kfp"


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A Docker engine, ended afterwards if it is our own."""
    with contextlib.suppress(docker.errors.DockerException):
        client = docker.from_env()
        client.ping()
        yield client
        return
    with tempfile.TemporaryDirectory(prefix="mlctl-", ignore_cleanup_errors=True) as at:
        address = f"unix://{at}/docker.sock"
        words = [
            "dockerd",
            "--data-root",
            f"{at}/data",
            "--exec-root",
            f"{at}/exec",
            "-H",
            address,
            "--pidfile",
            f"{at}/pid",
        ]
        with Path(at, "log").open("wb") as log:
            process = subprocess.Popen([*words, "--bridge=none", "--iptables=false"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(docker.errors.DockerException, OSError):
                    client = docker.DockerClient(address)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"dockerd does not start: {Path(at, 'log').read_text()[-500:]}")
                time.sleep(0.1)
            os.environ["DOCKER_HOST"] = address
            yield client
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    """Runs the pipeline; prints where its model is."""
    home = os.environ["MLCTL_HOME"]
    with engine() as client, tempfile.TemporaryDirectory(prefix="mlctl-") as root:
        empty = io.BytesIO()
        with tarfile.open(fileobj=empty, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("empty"))
        client.api.import_image_from_data(empty.getvalue(), repository=IMAGE, tag="latest")
        Path(home).mkdir(parents=True, exist_ok=True)
        shared = ["/usr", "/bin", "/lib", "/lib64", "/etc", sys.base_prefix, str(ROOT)]
        mounts = [Mount(path, os.path.realpath(path), "bind", read_only=True) for path in shared if Path(path).exists()]
        env = {"PATH": os.environ["PATH"], "MLCTL_HOME": home, "HOME": "/tmp"}
        for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE"):
            if name in os.environ:
                env[name] = os.environ[name]
        runner = local.DockerRunner(
            mounts=[*mounts, Mount(home, home, "bind")], environment=env, working_dir=str(EXAMPLE), network_mode="host"
        )
        local.init(runner, pipeline_root=root)
        sys.path.insert(0, str(EXAMPLE))
        from kfp_pipeline import digits

        print(digits().output.uri)


if __name__ == "__main__":
    if not shutil.which("dockerd") and not os.environ.get("DOCKER_HOST"):
        sys.exit("needs Docker")
    main()
