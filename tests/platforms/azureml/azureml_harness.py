"""The contract's view of the stand-in, by the stand-in's own memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from azureml_standin import GROUP, SUBSCRIPTION, WORKSPACE, StandIn

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.runs import Run
from mlctl.testing import Harness, Native

STORE = f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/{WORKSPACE}/datastores/workspaceblobstore/paths"

CREDENTIALS = {"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential", "MSI_SECRET": "of-this-machine"}


def furnish(standin: StandIn) -> None:
    """A secret, as a platform team makes it."""
    standin.secrets["acme-ml", "token"] = Harness.secret


def settings(standin: StandIn) -> dict[str, Any]:
    return {
        "subscription": SUBSCRIPTION, "resource_group": GROUP, "workspace": WORKSPACE, "resource_manager": standin.url,
        "identity": "managed", "secrets": {"TOKEN": "azure-kv:acme-ml/token"},
    }  # fmt: skip


class AzureMLHarness(Harness):
    """The real azure-core, azure-identity and azure-storage-blob over TLS to the stand-in."""

    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "outputs.uri": {"outputs": {"model": {"uri": f"{STORE}/models"}}},
        "resources.accelerators": {"resources": {"accelerators": "A100:1"}},
    }

    def __init__(self, standin: StandIn, home: Path) -> None:
        self.standin, self.home = standin, home

    def make(self) -> Backend:
        return backend.load("azureml", Settings("prod", settings(self.standin), self.home))

    def native(self, run: Run) -> Native:
        job = self.standin.jobs.get(run.name)
        alive = job is not None and job.status not in ("Completed", "Failed", "Canceled")
        return Native(int(job is not None), alive)

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        if fault == "lost_response":
            with self.standin.fault("lost", "PUT arm .*/jobs/", times=1):
                yield
        else:
            with self.standin.fault(fault):
                yield
