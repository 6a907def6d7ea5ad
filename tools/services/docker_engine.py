"""A Docker engine of one's own, where there is none or a test wants its own; and an image without a registry.

For the demo, `make services`, and the tests. Docker's client is imported where it is used: to start an engine takes none.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import system

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import Mount

__all__ = ["Dockerd", "answers", "empty_image", "own", "programs"]

ROOT = Path(__file__).resolve().parents[2]


class Dockerd:
    """dockerd, with all that it has below the folder `at`. Needs root. It has no network but its host's.

    It outlives this process; `stop` ends it, by the id that it noted. `options` are more of its words.
    """

    def __init__(self, at: Path, options: Sequence[str] = ("--bridge=none", "--iptables=false")) -> None:
        self.at, self.options = at, options
        self.address = f"unix://{at}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None  # where this process started it

    def start(self, patience: float = 60) -> None:
        """Returns once it answers. Raises RuntimeError where it doesn't start."""
        self.at.mkdir(parents=True, exist_ok=True)
        if not self.pid:  # what a kill left: numbers that may be another's, or nobody's whom no parent has collected
            for left in (self.at / "pid", self.at / "exec/containerd/containerd.pid"):
                left.unlink(missing_ok=True)
        words = ["dockerd", "--data-root", f"{self.at}/data", "--exec-root", f"{self.at}/exec", "-H", self.address]
        with (self.at / "log").open("ab") as log:
            words += ["--pidfile", f"{self.at}/pid", *self.options]
            path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where a user's PATH has no dockerd
            process = self._process = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
        deadline = time.monotonic() + patience
        while not answers(self.address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not start: {(self.at / 'log').read_text()[-500:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process; 0 where it isn't running."""
        return system.noted(self.at / "pid", f"{self.at}/pid")

    def stop(self, how: signal.Signals = signal.SIGTERM, patience: float = 60) -> None:
        """Ends it, and waits for its end; what its containers leave stays. A no-op where it isn't running."""
        if not system.stop(lambda: self.pid, self._process, patience, how):
            return
        # A container in its host's network leaves a mount, which keeps the folder.
        subprocess.run(["umount", f"{self.at}/exec/netns/default"], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def own() -> Iterator[str]:
    """The address of an engine that ends with all that it has. Raises RuntimeError where it doesn't start."""
    with temporary() as engine:
        yield engine.address


@contextlib.contextmanager
def temporary() -> Iterator[Dockerd]:
    """The same, to be stopped and started on the way."""
    with tempfile.TemporaryDirectory(
        prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True
    ) as at:  # a socket's path is short
        engine = Dockerd(Path(at))
        engine.start()
        try:
            yield engine
        finally:
            if engine.pid:
                _remove_containers(engine.address)
            engine.stop()
            # One with live-restore leaves a mount, which keeps the folder.
            subprocess.run(["umount", f"{at}/data"], stderr=subprocess.DEVNULL, check=False)


def answers(address: str) -> bool:
    """True where an engine answers at a unix:// or tcp:// address."""

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            if address.startswith("unix://"):
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(5)
                self.sock.connect(address.removeprefix("unix://"))
            else:
                host, _, port = address.partition("://")[2].rpartition(":")
                self.sock = socket.create_connection((host, int(port)), timeout=5)

    connection = Connection("localhost", timeout=5)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _remove_containers(address: str) -> None:
    import docker

    unreachable = contextlib.suppress(docker.errors.DockerException, OSError)
    with unreachable, contextlib.closing(docker.DockerClient(address)) as client:
        for container in client.containers.list(all=True):
            container.remove(force=True, v=True)


def empty_image(client: DockerClient, name: str) -> None:
    """Makes the image `name`, of nothing: what its containers run is mounted (see `programs`)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    client.api.import_image_from_data(data.getvalue(), repository=name, tag="latest")


def programs() -> list[Mount]:
    """This machine's programs and this checkout, read only."""
    from docker.types import Mount

    paths = ["/usr", "/bin", "/lib", "/lib64", "/etc", sys.base_prefix, str(ROOT)]
    return [Mount(path, os.path.realpath(path), "bind", read_only=True) for path in paths if Path(path).exists()]
