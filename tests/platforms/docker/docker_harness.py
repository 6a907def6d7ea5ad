"""How the tests make the backend, break the engine, and look at it by other means than the backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import docker
from docker_proxy import Proxy

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.runs import Run
from mlctl.testing import Harness, Native


class DockerHarness(Harness):
    """Looks at the engine with the SDK's own high-level client, past the proxy that the backend goes by."""

    patience = 120.0
    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar = {
        "python": {"python": "3.11"},
        "outputs.uri": {"outputs": {"model": {"uri": "/srv/models"}}},
        "resources.memory": {"resources": {"memory": "64Mi"}},
    }

    def __init__(self, engine: str, home: Path, **values: Any) -> None:
        home.mkdir()
        self.home = home
        self.proxy = Proxy(engine)
        self.client = docker.DockerClient(engine)
        self.values = {"host": self.proxy.address, "image": "base", "network": "none", "grace": 2, **values}

    def close(self) -> None:
        """Leaves no container of this test's."""
        for container in self.client.containers.list(all=True):
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        self.client.volumes.prune()
        for image in self.client.images.list(filters={"label": "mlctl.env"}):
            self.client.images.remove(image.id, force=True)
        self.client.close()
        self.proxy.close()

    def make(self) -> Backend:
        return backend.load("docker", Settings("box", self.values, self.home))

    def native(self, run: Run) -> Native:
        found = [one for one in self.client.containers.list(all=True) if one.name == run.name]
        return Native(len(found), any(one.status in ("running", "paused") for one in found))

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        self.proxy.fault = fault
        try:
            yield
        finally:
            self.proxy.fault = ""
