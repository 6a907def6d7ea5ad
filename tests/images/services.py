"""A Docker engine and a registry that end with whoever started them. For the tests, and for bench/images.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import base

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools/services"))
import system
from registry import Registry

__all__ = ["Missing", "base_image", "engine", "registry"]


class Missing(Exception):
    """A program that isn't on this machine; the message says how to get it."""


def _need(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        raise Missing(f"no {program}: apt-get install {package}")
    return found


def _with_buildkit() -> str:
    """The first `docker` on the PATH that has BuildKit: a newer one without buildx has not."""
    for folder in os.get_exec_path():
        docker = shutil.which("docker", path=folder)
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        if docker and b"--secret" in subprocess.run(
            [docker, "build", "--help"], capture_output=True, check=False, env=env
        ).stdout:  # fmt: skip
            return docker
    raise Missing("no docker with BuildKit: apt-get install docker.io")


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} does not start: {log.read_text()[-800:]}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def engine() -> Iterator[dict[str, str]]:
    """The variables that make `docker` reach it: DOCKER_HOST, and a PATH whose first `docker` has BuildKit.

    It has no network but its host's. Needs root. Raises Missing.
    """
    dockerd, docker = _need("dockerd", "docker.io"), _with_buildkit()
    if os.getuid() != 0:
        raise Missing("dockerd needs root")
    with tempfile.TemporaryDirectory(prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True) as at:
        address, log = f"unix://{at}/docker.sock", Path(at, "log")
        words = [dockerd, "--data-root", f"{at}/data", "--exec-root", f"{at}/exec", "--pidfile", f"{at}/pid"]
        words += ["-H", address, "--bridge=none", "--iptables=false"]
        Path(at, "bin").mkdir()
        Path(at, "bin/docker").symlink_to(docker)
        given = {"DOCKER_HOST": address, "DOCKER_CONFIG": f"{at}/config", "PATH": f"{at}/bin:{os.environ['PATH']}"}

        def ready() -> bool:
            return not subprocess.run([docker, "version"], capture_output=True, env={**os.environ, **given}).returncode

        with log.open("wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait(process, ready, log)
            yield given
        finally:
            _stop(process)
            # A container in its host's network leaves a mount, which keeps the folder.
            subprocess.run(["umount", f"{at}/exec/netns/default"], stderr=subprocess.DEVNULL, check=False)


def base_image(name: str) -> None:
    """Makes an image that has this machine's Python, with pip, and busybox."""
    path = f"ENV PATH={sys.base_prefix}/bin:/usr/local/bin:/bin"
    words = ["docker", "import", "--change", path, "-", name]
    subprocess.run(words, input=base.archive(), check=True, capture_output=True)


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """HOST:PORT of one that keeps what it is given below `folder`. Raises Missing."""
    own = Registry(folder)
    try:
        own.start()
    except system.Missing as reason:
        raise Missing(str(reason)) from None
    try:
        yield own.address
    finally:
        own.stop()
