"""What a system package brings: found here, installed where that may be done, or missing with a word on how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["Missing", "install", "need"]


class Missing(Exception):
    """A program is not here, and can't be installed by us."""

    def __init__(self, what: str, *packages: str) -> None:
        super().__init__(f"needs {what}: as root, apt-get install {' '.join(packages)}")


def need(program: str, *packages: str) -> None:
    """Returns where `program` is on PATH, installing `packages` if need be. Raises Missing."""
    if not shutil.which(program):
        install(*packages)
    if not shutil.which(program):
        raise Missing(program, *packages)


def install(*packages: str) -> None:
    """Installs Debian packages where that can be done; else does nothing."""
    if os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)  # type: ignore[call-overload]
        words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
        subprocess.run(words, check=False, **quiet)  # type: ignore[call-overload]
