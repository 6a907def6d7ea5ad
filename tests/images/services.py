"""A Docker engine that ends with whoever started it, and its base image. For the tests, and for bench/images.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import base_image
from docker_engine import Dockerd

__all__ = ["base", "engine"]


@contextmanager
def engine(docker: Path) -> Iterator[dict[str, str]]:
    """The variables that make that `docker`, first on the PATH then, reach it. It has no network but its host's. Needs root."""
    with tempfile.TemporaryDirectory(prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True) as at:
        Path(at, "bin").mkdir()
        Path(at, "bin/docker").symlink_to(docker)
        own = Dockerd(Path(at))
        own.start()
        try:
            yield {
                "DOCKER_HOST": own.address,
                "DOCKER_CONFIG": f"{at}/config",
                "PATH": f"{at}/bin:{os.environ['PATH']}",
            }
        finally:
            own.stop()


def base(name: str) -> None:
    """Makes an image that has this machine's Python, with pip, and busybox; nothing of this machine's settings of pip."""
    content, _ = base_image.archive()
    path = f"ENV PATH={sys.base_prefix}/bin:/usr/local/bin:/bin"
    subprocess.run(["docker", "import", "--change", path, "-", name], input=content, check=True, capture_output=True)
