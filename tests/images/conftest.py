"""A Docker engine, a registry and a private index of this session's own, on this machine alone.

No registry of the world's is asked: the base image is this machine's Python (base.py), and pip has the index here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest
import services
from index import Index

T = TypeVar("T")


@contextmanager
def _provided(service: AbstractContextManager[T]) -> Iterator[T]:
    """The service; a skip where the machine lacks it, which in CI is a failure."""
    try:
        found = service.__enter__()
    except services.Missing as reason:
        if os.environ.get("CI"):
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    try:
        yield found
    finally:
        service.__exit__(None, None, None)


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """An engine that ends with all that it has, and the `docker` that reaches it."""
    with _provided(services.engine()) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    """An image's name: this machine's Python with pip, and busybox."""
    services.base_image("base:1")
    return "base:1"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a registry."""
    with _provided(services.registry(tmp_path_factory.mktemp("registry"))) as address:
        yield address


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
