"""A job as the body of the engine's POST /containers/create, and what is put into the container before it starts. Pure.

What the container has of its own, and loses with it: volumes without a name, one for all and one for code, where there is any.
What stays: folders of the engine's machine, mounted where the job writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.errors import Unsupported
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp

from . import entry

__all__ = ["LABEL_DEADLINE", "LABEL_OUTPUTS", "LABEL_STAMP", "LABEL_STEM", "PYTHON", "dated", "make", "stem_folder"]

LABEL_STEM = "mlctl.stem"
LABEL_STAMP = "mlctl.stamp"
LABEL_OUTPUTS = "mlctl.outputs"
LABEL_DEADLINE = "mlctl.deadline"
"""The second, by the engine's clock, after which the container doesn't begin."""
PYTHON = "3.12"
"""Of the image, where neither the job nor the target names another."""


def stem_folder(root: str, stem: str) -> str:
    """The folder of the engine's machine that has what a key's attempts leave."""
    return f"{root}/runs/{stem}"


@dataclass(frozen=True)
class _Folders:
    """Where the job writes: the folders that are mounted, what is made in them, and what each output is called outside."""

    mounted: Mapping[str, str]
    """The container's -> the engine's machine's."""
    made: tuple[str, ...]
    places: Mapping[str, str]
    addresses: Mapping[str, str]


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported."""
    if unknown := job.platforms.get("docker", {}).keys():
        raise job.fail(("platforms", "docker", min(unknown)), "unknown field; docker has none of its own")
    for label in job.labels:
        if label.startswith("mlctl."):
            raise job.fail(("labels", label), "labels that begin so are mlctl's own; choose another")
    stem = name.rpartition("-")[0]
    inputs, mounts = _inputs(job)
    own = {"Labels": {LABEL_STEM: stem}}  # by which they are found where somebody removed the container alone
    volumes = (entry.ROOT, entry.CODE) if job.package else (entry.ROOT,)
    mounts += [{"Type": "volume", "Target": target, "VolumeOptions": own} for target in volumes]
    folders = _outputs(job, facts["root"], name)
    checkpoints = f"{entry.SHARED}/checkpoints"
    run = Run("docker", facts["host"], facts["engine"], name)
    places = contract.Places(inputs, folders.places, entry.PARAMS, entry.METRICS, checkpoints)
    argv, env = contract.argv(job, places), contract.environment(job, places, str(run))
    contract.passable(job, (*argv, *env.values()), contract.WORD)
    contract.exportable(job, env)
    script = entry.script([*folders.made, checkpoints], job.python)
    grace = facts["grace"]
    params = json.dumps(job.values())
    word = params if len(params) <= contract.WORD else ""
    body: dict[str, Any] = {
        "Entrypoint": ["/bin/sh", "-c", script, "mlctl"],
        "Cmd": [str(job.timeout or ""), str(grace), word, *argv],
        "Env": [f"{key}={text}" for key, text in {"PYTHONUNBUFFERED": "1", **env}.items()],
        "Labels": {
            **job.labels,
            **({"mlctl.tags": " ".join(job.tags)} if job.tags else {}),
            LABEL_STEM: stem,
            LABEL_OUTPUTS: json.dumps(folders.addresses),
        },
        "Hostname": name,
        "StopSignal": "SIGTERM",
        "StopTimeout": grace + 5,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host(job, settings, facts, folders, stem, mounts),
    }
    if job.package:
        body["WorkingDir"] = entry.CODE
    if user := settings.values.get("user"):
        body["User"] = str(user)
    request = {
        "image": image_of(job, settings),
        "pull": settings.values.get("pull", "missing"),
        "requirements": list(job.requirement_lines),
        "code": str(job.package.path) if job.package else None,
        "code_bytes": job.package.size if job.package else 0,
        "params": "" if word else params,
        "secrets": {secret: settings.secret_source(secret) for secret in job.secrets},
        "folders": [*folders.made, checkpoints],
        "container": body,
    }
    return Plan(name, "docker", settings.target, request, (), losses)


def dated(asked: Mapping[str, Any], image: str, user: str, stamp: Stamp, deadline: int) -> dict[str, Any]:
    """The body, with what is known once it is sent. The deadline is a word for the container and a label for who looks at it."""
    body = asked["container"]
    labels = {**body["Labels"], LABEL_STAMP: stamp.to_json(), LABEL_DEADLINE: str(deadline)}
    return {**body, "Cmd": [str(deadline), *body["Cmd"]], "Image": image, "User": user, "Labels": labels}


def image_of(job: Job, settings: Settings) -> str:
    """The job's image, else the target's, in which {python} is the version that the job asks for."""
    image = job.image or str(settings.values.get("image", "python:{python}-slim"))
    return image.replace("{python}", job.python or PYTHON)


def _inputs(job: Job) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Each is a path of the engine's machine, mounted to be read, under its own last name."""
    data.reached(job, {"file": "mount"}, "docker")
    places, mounts = {}, []
    for name, each in job.inputs.items():
        places[name] = str(PurePosixPath(entry.INPUTS, name, PurePosixPath(each.uri).name))
        mounts.append({"Type": "bind", "Source": each.uri, "Target": places[name], "ReadOnly": True})
    return places, mounts


def _outputs(job: Job, root: str, name: str) -> _Folders:
    stem, _, attempt = name.rpartition("-")
    mounted = {entry.SHARED: stem_folder(root, stem) + "/shared"}
    places, addresses = {}, {}
    for key, each in job.outputs.items():
        if each.uri and data.scheme(each.uri) != "file":
            text = f"got '{each.uri}', and docker writes to folders of the engine's machine; leave it out"
            raise Unsupported(str(job.fail(("outputs", key, "uri"), text)))
        at = f"{entry.OUTPUTS}-at/{key}" if each.uri else entry.OUTPUTS
        mounted[at] = f"{each.uri}/{name}" if each.uri else f"{stem_folder(root, stem)}/{attempt}/outputs"
        places[key], addresses[key] = f"{at}/{key}", f"{mounted[at]}/{key}"
    if bad := next((path for path in mounted.values() if ":" in path), None):
        raise job.fail(("outputs",), f"{bad}: the engine mounts no folder to write to whose path has a ':'")
    return _Folders(mounted, tuple(places.values()), places, addresses)


def _host(
    job: Job, settings: Settings, facts: Facts, folders: _Folders, stem: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    asked = job.resources
    host: dict[str, Any] = {}
    if asked.cpu is not None:
        host["NanoCpus"] = int(asked.cpu * 1e9)
    if asked.memory is not None:
        host |= {"Memory": asked.memory, "MemorySwap": asked.memory}  # no swap beside it
    if asked.shm is not None:
        host["ShmSize"] = asked.shm
    if asked.accelerators is not None:
        host["DeviceRequests"] = [{"Count": asked.accelerators.count, "Capabilities": [["gpu"]]}]
    if settings.values.get("read_only"):
        host |= {"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "rw,exec,mode=1777"}}  # noqa: S108 - the container's own
    if network := settings.values.get("network"):
        host["NetworkMode"] = network
    return {
        "Binds": [f"{source}:{target}" for target, source in folders.mounted.items()],
        "Mounts": mounts,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        **host,
    }
