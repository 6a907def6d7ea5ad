"""One Docker engine of these tests' own, with an image made of this machine's Python; and one to be broken."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import engines

collect_ignore_glob = [] if find_spec("docker") else ["*.py"]  # these tests have an environment of their own


def started() -> contextlib.AbstractContextManager[object]:
    """A docker_engine.Dockerd that ends with all it has; skips where this machine can't have one."""
    import docker_engine

    engines.needed("busybox")
    return docker_engine.temporary()


def furnish(address: str) -> None:
    """Makes the image `base`: Python, pip and busybox."""
    import base_image
    import docker

    with contextlib.closing(docker.DockerClient(address)) as client:
        base_image.make(client, "base")


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """Its address."""
    with started() as made:
        furnish(made.address)
        yield made.address


@pytest.fixture
def breakable() -> Iterator[object]:
    """An engine for one test, which may stop and kill it."""
    with started() as made:
        furnish(made.address)
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for what runs leave, which a container's user may have written to as root."""
    made = Path("/tmp") / f"mlctl-docker-{os.getpid()}"
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def harness(engine: str, tmp_path: Path) -> Iterator[object]:
    from docker_harness import DockerHarness

    with contextlib.closing(DockerHarness(engine, tmp_path / "home")) as made:
        yield made
