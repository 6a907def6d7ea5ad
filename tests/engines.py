"""A Docker engine of a test's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def needed(*programs: str) -> None:
    """Skips where this machine can't have one, and programs that their packages are named for."""
    import system

    try:
        system.need("dockerd", "docker.io", "iptables")
        for program in programs:
            system.need(program, program)
    except system.Missing as reason:
        pytest.skip(str(reason))
    if os.getuid() != 0:
        pytest.skip("dockerd needs root")


def builder() -> Path:
    """A `docker` that builds; skips where this machine has none, or no engine for it."""
    import buildkit
    import system

    needed("busybox")
    try:
        return buildkit.docker()
    except system.Missing as reason:
        pytest.skip(str(reason))


@contextlib.contextmanager
def with_image(name: str) -> Iterator[str]:
    """The address of an engine, DOCKER_HOST too, that has an empty image of that name."""
    import docker
    import docker_engine

    needed()
    with docker_engine.own() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        with contextlib.closing(docker.DockerClient(address)) as client:
            docker_engine.empty_image(client, name)
        yield address
