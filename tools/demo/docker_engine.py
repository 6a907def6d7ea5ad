"""A Docker engine of one's own, where there is none or a test wants its own; and an image without a registry.

For the demo, and for the tests of KFP.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.types import Mount

__all__ = ["empty_image", "own", "programs"]

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def own() -> Iterator[str]:
    """The address of an engine that ends with all that it has. Needs root. It has no network but its host's.

    Raises RuntimeError where it doesn't start.
    """
    with tempfile.TemporaryDirectory(
        prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True
    ) as at:  # a socket's path is short
        address = f"unix://{at}/docker.sock"
        words = ["dockerd", "--data-root", f"{at}/data", "--exec-root", f"{at}/exec", "--pidfile", f"{at}/pid"]
        with Path(at, "log").open("wb") as log:
            words += ["-H", address, "--bridge=none", "--iptables=false"]
            process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd does not start: {Path(at, 'log').read_text()[-500:]}")
                time.sleep(0.05)
            yield address
        finally:
            if process.poll() is None:
                with contextlib.suppress(docker.errors.DockerException, OSError):
                    _remove_containers(address)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # A container in its host's network leaves a mount, which keeps the folder.
            subprocess.run(["umount", f"{at}/exec/netns/default"], stderr=subprocess.DEVNULL, check=False)


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(address.removeprefix("unix://"))
        return True
    return False


def _remove_containers(address: str) -> None:
    with contextlib.closing(docker.DockerClient(address)) as client:
        for container in client.containers.list(all=True):
            container.remove(force=True)


def empty_image(client: docker.DockerClient, name: str) -> None:
    """Makes the image `name`, of nothing: what its containers run is mounted (see `programs`)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    client.api.import_image_from_data(data.getvalue(), repository=name, tag="latest")


def programs() -> list[Mount]:
    """This machine's programs and this checkout, read only."""
    paths = ["/usr", "/bin", "/lib", "/lib64", "/etc", sys.base_prefix, str(ROOT)]
    return [Mount(path, os.path.realpath(path), "bind", read_only=True) for path in paths if Path(path).exists()]
