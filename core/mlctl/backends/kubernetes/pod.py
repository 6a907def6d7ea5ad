"""The pod of a job: its container, what is mounted, where it may run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlctl.backend import Settings
from mlctl.backends._pods import Volume, accelerator, image
from mlctl.errors import one_line
from mlctl.job import Job
from mlctl.runs import Loss

from .launch import FILES, ROOT, UID_VARIABLE
from .settings import duration, secret_key

__all__ = ["CONTAINER", "Pod"]

CONTAINER = "job"
"""The name of the job's container, for the template of a target, too."""


class Pod:
    """One job's. `losses` grows by what the target can't give."""

    def __init__(self, job: Job, settings: Settings, losses: list[Loss]) -> None:
        self.job, self.settings, self.losses = job, settings, losses
        self.own = _platform(job)
        self.accelerator = accelerator(job, settings)

    def container(self, command: list[str], words: list[str], env: Mapping[str, str]) -> dict[str, Any]:
        """The job's container, but for what is mounted."""
        return {
            "name": CONTAINER,
            "image": image(self.job, self.settings),
            "command": command,
            "args": words,
            "workingDir": ROOT,
            "env": [
                *({"name": name, "value": value} for name, value in env.items()),
                *({"name": name, "valueFrom": secret_key(self.settings, name)} for name in self.job.secrets),
                {"name": UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['controller-uid']"}}},
            ],
            "resources": self._resources(),
        }

    def spec(
        self, container: Mapping[str, Any], files: Mapping[str, str], mounted: Mapping[str, Volume]
    ) -> dict[str, Any]:  # fmt: skip
        """The pod's spec. `files`: path -> ConfigMap."""
        job, values = self.job, self.settings.values
        volumes: list[dict[str, Any]] = [{"name": "mlctl", "emptyDir": {}}]
        mounts: list[dict[str, Any]] = [{"name": "mlctl", "mountPath": ROOT}]
        if job.resources.disk:
            volumes[0]["emptyDir"] = {"sizeLimit": str(job.resources.disk)}
        if files:
            sources = [
                {"configMap": {"name": made, "items": [{"key": "file", "path": path}]}}
                for path, made in sorted(files.items())
            ]
            volumes.append({"name": "mlctl-files", "projected": {"sources": sources}})
            mounts.append({"name": "mlctl-files", "mountPath": FILES, "readOnly": True})
        for name, each in sorted(mounted.items()):
            volumes.append({"name": f"volume-{name}", **_source(each)})
            mount: dict[str, Any] = {"name": f"volume-{name}", "mountPath": each.at}
            mounts.append({**mount, "readOnly": True} if each.read_only else mount)
        if job.resources.shm:
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(job.resources.shm)}})
            mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - the pod's
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": duration(self.settings, "grace", "30s"),
            "containers": [{**container, "volumeMounts": mounts}],
            "volumes": volumes,
        }
        if job.timeout:
            spec["activeDeadlineSeconds"] = job.timeout
        if account := values.get("service_account"):
            spec["serviceAccountName"] = account
        else:
            spec["automountServiceAccountToken"] = False
        if secrets := values.get("image_pull_secrets"):
            spec["imagePullSecrets"] = [{"name": name} for name in secrets]
        if priority := self.own.get("priority_class") or values.get("priority_class"):
            spec["priorityClassName"] = priority
        selector, tolerations = self._placed()
        if selector:
            spec["nodeSelector"] = selector
        if tolerations:
            spec["tolerations"] = tolerations
        return spec

    def _placed(self) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """The node selector and the tolerations: the target's, its accelerator's, and those of spot nodes."""
        values, asked = self.settings.values, self.job.resources
        sources: list[Mapping[str, Any]] = [values, self.accelerator]
        if asked.spot and "spot" in values:
            sources.append(values["spot"])
        elif asked.spot:
            why = f"targets.{self.settings.target}.spot names no nodes that may be taken back; it runs on any"
            self.losses.append(Loss("resources.spot", why))
        selector: dict[str, str] = {}
        tolerations: list[dict[str, Any]] = []
        for source in sources:
            selector |= source.get("node_selector", {})
            tolerations += [dict(each) for each in source.get("tolerations", [])]
        return selector, tolerations

    def _resources(self) -> dict[str, Any]:
        """Memory and disk are limits, as what is beyond them ends a pod or its neighbours; cores may be lent."""
        asked = self.job.resources
        requests: dict[str, str] = {}
        limits: dict[str, str] = {}
        if asked.cpu:
            requests["cpu"] = f"{max(1, round(asked.cpu * 1000))}m"
        if asked.memory:
            requests["memory"] = limits["memory"] = str(asked.memory)
        if asked.disk:
            requests["ephemeral-storage"] = limits["ephemeral-storage"] = str(asked.disk)
        if asked.accelerators:
            resource = self.accelerator["resource"]
            requests[resource] = limits[resource] = str(asked.accelerators.count)
        return {name: each for name, each in (("requests", requests), ("limits", limits)) if each}


def _source(volume: Volume) -> dict[str, Any]:
    if volume.claim:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.host:
        return {"hostPath": {"path": volume.host}}
    server, _, path = volume.nfs.partition(":")
    return {"nfs": {"server": server, "path": path}}


def _platform(job: Job) -> Mapping[str, Any]:
    """What the job says under `platforms: {kubernetes: ...}`."""
    own = job.platforms.get("kubernetes", {})
    for name, value in own.items():
        at = ("platforms", "kubernetes", name)
        if name not in ("queue", "priority_class"):
            raise job.fail(at, "unknown field; expected queue or priority_class")
        if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", value):
            raise job.fail(at, f"got {one_line(value)}, expected the name of one in the cluster")
    return own
