"""The contract's view of a workspace of Azure's, by azure-ai-ml, which the backend under test does without."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.config import Target
from mlctl.runs import Run
from mlctl.testing import Harness, Native

_LONG = (("subscriptions", "subscription"), ("resourcegroups", "resource_group"), ("workspaces", "workspace"))


class Account(Harness):
    """Nothing is broken on purpose: what a fault is, the stand-in shows."""

    patience = 3600.0  # a machine takes minutes, and an image longer

    def __init__(self, target: Target, home: Path) -> None:
        self.settings = Settings(target.name, target.settings, home)
        values = target.settings
        at = "/".join(f"{name}/{values[key]}" for name, key in _LONG)
        store = f"azureml://{at}/datastores/{values.get('datastore', 'workspaceblobstore')}/paths"
        self.samples: Any = {
            "outputs.uri": {"outputs": {"model": {"uri": f"{store}/mlctl-contract"}}},
            "resources.accelerators": {"resources": {"accelerators": "T4:1"}},
        }

    def make(self) -> Backend:
        return backend.load("azureml", self.settings)

    def native(self, run: Run) -> Native:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what azure-ai-ml's own imports warn of
            from azure.ai.ml import MLClient
            from azure.core.exceptions import ResourceNotFoundError
            from azure.identity import DefaultAzureCredential

            place = (self.settings.values[key] for _, key in _LONG)
            client = MLClient(DefaultAzureCredential(), *place, enable_telemetry=False)
            try:
                status = client.jobs.get(run.name).status
            except ResourceNotFoundError:
                return Native(0, alive=False)
        return Native(1, status not in ("Completed", "Failed", "Canceled"))
