"""A `docker` that builds: one without buildx doesn't, and it may stand before another on the PATH.

python tools/services/buildkit.py       prints the folder of the first that does
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import system

__all__ = ["docker"]


def docker() -> Path:
    """The first on the PATH that has BuildKit. Raises system.Missing."""
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}
    for folder in os.get_exec_path():
        found = shutil.which("docker", path=folder)
        if found and b"--secret" in subprocess.run(
            [found, "build", "--help"], capture_output=True, check=False, env=env
        ).stdout:  # fmt: skip
            return Path(found)
    raise system.Missing("docker with BuildKit", "docker.io", "(and docker-buildx, where that is a package of its own)")


if __name__ == "__main__":
    try:
        print(docker().parent)
    except system.Missing as reason:
        sys.exit(f"docker: {reason}")
