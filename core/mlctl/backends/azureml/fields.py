"""The fields of a command job, and of the environment that it runs in, from the job and the target's settings. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from mlctl.backend import Facts, Settings
from mlctl.backends import _tags
from mlctl.errors import Unsupported, one_line
from mlctl.job import Job
from mlctl.runs import Loss

from . import sizes
from .settings import Place

__all__ = ["BASE", "BASE_GPU", "LIMIT", "Fields", "compute_size"]

BASE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
BASE_GPU = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.8-cudnn8-ubuntu22.04"
"""The images that environments with a Python of their own are built on: conda is in them."""

LIMIT = 86400
"""Seconds that a job may run that says nothing of it, nor does its target."""

_DESCRIPTION = 5000
"""Characters that it may have."""

_IDENTITIES = {"managed": "Managed", "user": "UserIdentity", "token": "AMLToken"}


class Fields:
    """One job's. `losses` grows by what the target's compute decides itself."""

    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings, at: Place) -> None:
        self.job, self.facts, self.name, self.values, self.settings, self.at = (
            job, facts, name, settings.values, settings, at,
        )  # fmt: skip
        self.own = _platform(job)
        self.losses: list[Loss] = []
        self.compute = str(self.own.get("compute") or self.values.get("compute", ""))
        self.image = job.image or ("" if job.python or "conda" in self.own else str(self.values.get("environment", "")))
        self.installed = job.requirement_lines if self.image else ()
        """What pip installs when the job starts: an image is taken as it is, an environment of ours has it built in."""
        self.torchrun: tuple[int, int] | None = None
        self.distribution = self._distribution()

    def properties(self) -> dict[str, Any]:
        """All but the command, inputs, outputs, the environment and mlctl's record."""
        job = self.job
        found: dict[str, Any] = {
            "jobType": "Command",
            "displayName": job.name,
            "experimentName": str(self.values.get("experiment", job.name)),
            "limits": {"jobLimitsType": "Command", "timeout": f"PT{self._runtime()}S"},
            "resources": self._resources(),
            "tags": self._tags(),
        }
        if job.description:
            if (size := len(job.description)) > _DESCRIPTION:
                raise job.fail(("description",), f"it has {size} characters, and Azure ML takes {_DESCRIPTION}")
            found["description"] = job.description
        if self.compute:
            found["computeId"] = f"{self.at.arm}/computes/{self.compute}"
        else:
            found["queueSettings"] = {"jobTier": "Spot" if job.resources.spot else "Standard"}
        if self.distribution:
            found["distribution"] = self.distribution
        if identity := self.values.get("identity"):
            found["identity"] = {"identityType": _IDENTITIES[identity]}
            if client := self.values.get("identity_client_id"):
                if identity != "managed":
                    raise self.settings.fail(
                        "identity_client_id", f"identity: is {identity}; only a managed one has an id"
                    )
                found["identity"]["clientId"] = client
        return found

    def environment(self) -> tuple[str, dict[str, Any] | None]:
        """The id of the environment, and the request that registers it, by its digest; None for one that is there."""
        if match := re.fullmatch(r"azureml:([\w.-]+):([\w.-]+)", self.image):
            return f"{self.at.arm}/environments/{match[1]}/versions/{match[2]}", None
        if self.image.startswith("azureml://registries/"):
            return self.image, None
        base = BASE_GPU if self.job.resources.accelerators else BASE
        properties: dict[str, Any] = {"osType": "Linux", "image": self.image or base}
        if self.image.startswith("azureml:"):
            text = f"got '{self.image}', expected an image, azureml:NAME:VERSION or azureml://registries/REGISTRY/..."
            raise (
                Unsupported(str(self.job.fail(("image",), text)))
                if self.job.image
                else self.settings.fail("environment", text)
            )
        if not self.image:
            properties["condaFile"] = json.dumps(self._conda(), sort_keys=True)
        digest = hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()[:32]
        path = f"{self.at.arm}/environments/mlctl-{digest}/versions/1"
        return path, {"id": path, "body": {"properties": properties}}

    def _conda(self) -> dict[str, Any]:
        """A conda file, which JSON is too: the job's own, or its Python and its requirements."""
        given = self.own.get("conda")
        if given is not None:
            if self.job.image or self.job.python or self.job.requirement_lines:
                text = "says all that the environment has; remove it, or image, python and requirements"
                raise self.job.fail(("platforms", "azureml", "conda"), text)
            return dict(given)
        needs: list[Any] = [f"python={self.job.python or '3.12'}", "pip"]
        if self.job.requirement_lines:
            needs.append({"pip": list(self.job.requirement_lines)})
        return {"channels": ["conda-forge"], "dependencies": needs}

    def _resources(self) -> dict[str, Any]:
        asked = self.job.resources
        found: dict[str, Any] = {"instanceCount": asked.nodes}
        if asked.shm:
            found["shmSize"] = f"{-(-asked.shm // (1 << 20))}m"
        if not self.compute:
            found["instanceType"] = self._instance()
            return found
        if "instance_type" in self.own:
            text = f"the job runs on the compute '{self.compute}', which has its own; remove one of the two"
            raise self.job.fail(("platforms", "azureml", "instance_type"), text)
        size = sizes.SIZES.get(str(self.facts.get("size", "")))
        if size and (lacks := sizes.lacks(size, asked)):
            raise self.job.fail(("resources",), f"compute '{self.compute}' is {self.facts['size']}: it has {lacks}")
        if not size:
            why = f"the compute '{self.compute}' has what it has, and mlctl doesn't know its size"
            for field in ("cpu", "memory", "accelerators"):
                if getattr(asked, field) is not None:
                    self.losses.append(Loss(f"resources.{field}", why))
        if asked.spot:
            why = f"whether the compute '{self.compute}' has low priority is its own setting"
            self.losses.append(Loss("resources.spot", why))
        return found

    def _instance(self) -> str:
        asked = self.job.resources
        named = self.own.get("instance_type")
        if named is None and not sizes.asks(asked):
            return str(self.values.get("instance_type", "Standard_E4s_v3"))
        if named is None:
            try:
                return sizes.choose(asked)
            except ValueError as reason:
                raise Unsupported(str(self.job.fail(("resources",), str(reason)))) from None
        if named in sizes.SIZES and (lacks := sizes.lacks(sizes.SIZES[named], asked)):
            text = f"{named} has {lacks}, and resources: asks for more"
            raise self.job.fail(("platforms", "azureml", "instance_type"), text)
        return str(named)

    def _distribution(self) -> dict[str, Any] | None:
        """One process of Azure ML's on each node, which is the script; torchrun starts the others."""
        asked, nodes = self.job.distribution, self.job.resources.nodes
        if asked is None:
            return {"distributionType": "PyTorch", "processCountPerInstance": 1} if nodes > 1 else None
        if asked.type == "torchrun":
            self.torchrun = (nodes, asked.processes_per_node)
            return {"distributionType": "PyTorch", "processCountPerInstance": 1}
        if asked.type not in ("env", "mpi"):
            text = f"got '{asked.type}', and torchrun, env and mpi are started here"
            raise Unsupported(str(self.job.fail(("distribution", "type"), text)))
        if asked.processes_per_node > 1:
            text = "one process is started on each node; torchrun starts more"
            raise Unsupported(str(self.job.fail(("distribution", "processes_per_node"), text)))
        kind = "PyTorch" if asked.type == "env" else "Mpi"
        return {"distributionType": kind, "processCountPerInstance": 1}

    def _tags(self) -> dict[str, str]:
        rule = "Azure ML's tags take 100 characters, and 256 of a value"
        return _tags.pairs(self.job, self.settings, ".", lambda name, value: len(name) > 100 or len(value) > 256, rule)

    def _runtime(self) -> int:
        return int(self.job.timeout or self.values.get("max_runtime", LIMIT))


def compute_size(answer: Mapping[str, Any]) -> str:
    """The size of the machines of a compute, from its record."""
    inner = answer.get("properties", {}).get("properties") or {}
    return str(inner.get("vmSize") or "")


def _platform(job: Job) -> Mapping[str, Any]:
    """What the job says under `platforms: {azureml: ...}`."""
    own = job.platforms.get("azureml", {})
    kinds: Mapping[str, tuple[type, str]] = {
        "compute": (str, "the name of a compute of the workspace"),
        "instance_type": (str, "a size of virtual machine such as Standard_E4s_v3"),
        "conda": (Mapping, "a conda file: {channels: [...], dependencies: [...]}"),
    }
    for name, value in own.items():
        if name not in kinds:
            raise job.fail(("platforms", "azureml", name), f"unknown field; expected {', '.join(kinds)}")
        if not isinstance(value, kinds[name][0]):
            raise job.fail(("platforms", "azureml", name), f"got {one_line(value)}, expected {kinds[name][1]}")
    return own
