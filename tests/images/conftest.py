"""A Docker engine, a registry and a private index of this session's own, on this machine alone.

No registry of the world's is asked: the base image is this machine's Python, and pip has the index here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import services
from index import Index

import engines


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """An engine that ends with all that it has, and the `docker` that reaches it."""
    with services.engine(engines.builder()) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    """An image's name: this machine's Python with pip, and busybox."""
    services.base("base:1")
    return "base:1"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a registry."""
    import registry

    engines.needed("docker-registry")
    own = registry.Registry(tmp_path_factory.mktemp("registry"))
    own.start()
    yield own.address
    own.stop()


@pytest.fixture(scope="session")
def index() -> Iterator[Index]:
    """A private index: it answers nobody without the password."""
    made = Index()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(30)
