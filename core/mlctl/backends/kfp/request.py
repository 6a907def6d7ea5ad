"""A job as KFP gets it: a run of a pipeline of one task, in the intermediate representation, its code and small inputs in it.

Pure. What Kubernetes alone knows, volumes, Secrets, where a pod may run, is in the platform's part of the specification. What
mlctl has to know of a run again is its one parameter: KFP keeps it as it was sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlctl import contract
from mlctl.backend import Facts, Settings
from mlctl.backends._pods import Layout, accelerator, image, secret
from mlctl.errors import Unavailable, Unsupported, one_line, refused
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp, Upload

from .ir import Parameter, document
from .launch import FILES, OUTER, ROOT, Launch, script
from .settings import grace, place

__all__ = ["LIMIT", "RECORD", "make", "outputs_of", "stamp_of", "stamped"]

LIMIT = 100_000
"""Bytes that the task's container may have, code and inputs of this machine in base64 included, and what is told of its pod: KFP
hands each to its driver as one word, and Linux takes 128 KiB."""

DESCRIPTION = 255
"""Characters that the description of a run may have in the table of a server."""

RECORD = "mlctl"
"""The pipeline's parameter."""

_REPLACED = re.compile(r"\{\{|\$\(")
_ADDRESS = "run:"


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported, and InvalidConfig for a setting that is wrong."""
    return _Maker(job, facts, name, settings, losses).plan()


class _Maker(Layout):
    root = ROOT
    writes = "a run on KFP writes to volumes of the target only, such as volume://data/models"

    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> None:
        super().__init__(job, facts, name, settings)
        self.losses = losses
        self.uploads: dict[str, Upload] = {}
        """Place in the pod -> the file that gets there."""
        self.size = 0
        self.accelerator = accelerator(job, settings)
        if _REPLACED.search(job.image):
            raise job.fail(("image",), f"got {one_line(job.image)}, in which Kubernetes or KFP would replace something")
        for field in job.platforms.get("kfp", {}):
            raise job.fail(("platforms", "kfp", field), "unknown field; there are none for kfp")

    def plan(self) -> Plan:
        job, values = self.job, self.settings.values
        places, addresses = self.places()
        words = contract.argv(job, places)
        run = Run("kfp", *place(self.settings), self.name)
        env = {"PYTHONUNBUFFERED": "1", **contract.environment(job, places, str(run))}
        contract.passable(job, (*words, *env.values()))
        launch = Launch(
            words, env, json.dumps(job.values(), ensure_ascii=False), f"{self.runs}/{self.attempt}" if self.runs else "",
            folders=[*places.outputs.values(), *self.saved.values(), places.checkpoints], copied=self.copied,
            code=job.package is not None, requirements=job.requirement_lines, saved=self.saved,
            timeout=job.timeout or 0, grace=grace(self.settings),
        )  # fmt: skip
        text = script(launch)
        container: dict[str, Any] = {
            "image": image(job, self.settings),
            "command": ["/bin/sh", "-c", OUTER, "mlctl"],
            "args": [base64.b64encode(text.encode()).decode()],
        }
        if resources := self._resources():
            container["resources"] = resources
        whole = len(json.dumps(container)) + self.size
        if whole > LIMIT:
            said = f"with code and inputs of this machine the task has {whole} bytes, and KFP takes {LIMIT}"
            way = "build the code into an image, and put data on a volume of the target"
            raise Unsupported(str(job.fail(("code",) if job.package else ("command",), f"{said}; {way}")))
        ir = document(
            job.name,
            job.description,
            container,
            (Parameter(RECORD, "STRING", "What mlctl knows of this run."),),
            (),
            cached=False,
        )
        body = {
            "display_name": self.name,
            "description": _short(job.description),  # the pipeline has it whole
            "pipeline_spec": self._specification(ir),
            "service_account": str(values.get("service_account", "")),
        }
        request = {"run": {name: each for name, each in body.items() if each}, "outputs": addresses, "script": text}
        return Plan(self.name, "kfp", self.settings.target, request, tuple(self.uploads.values()), self.losses)

    def _specification(self, ir: dict[str, Any]) -> dict[str, Any]:
        """As KFP's own client sends it: the pipeline alone, or with what is Kubernetes' beside it."""
        native = {
            "platforms": {"kubernetes": {"deploymentSpec": {"executors": {f"exec-{self.job.name}": self._pod()}}}}
        }
        return {"pipeline_spec": ir, "platform_spec": native}

    def _pod(self) -> dict[str, Any]:
        """What the platform's part says of the pod."""
        job, values = self.job, self.settings.values
        sources = (values, self.accelerator)
        selector = {name: each for source in sources for name, each in source.get("node_selector", {}).items()}
        tolerations = [_camel(each) for source in sources for each in source.get("tolerations", [])]
        metadata: dict[str, Any] = {
            "labels": {**job.labels, "app.kubernetes.io/managed-by": "mlctl", "mlctl.io/run": self.name}
        }
        if job.tags:
            metadata["annotations"] = {"mlctl.io/tags": _kept(list(job.tags))}
        pod: dict[str, Any] = {"podMetadata": metadata}
        if self.mounted:
            pod["pvcMount"] = [
                {
                    "constant": each.claim,
                    "mountPath": each.at,
                    "pvcNameParameter": {"runtimeValue": {"constant": each.claim}},
                }
                for each in self.mounted.values()
            ]
        if job.secrets:
            pod["secretAsEnv"] = [self._secret(name) for name in job.secrets]
        if selector:
            pod["nodeSelector"] = {"labels": selector}
        if tolerations:
            pod["tolerations"] = tolerations
        if names := values.get("image_pull_secrets"):
            pod["imagePullSecret"] = [
                {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}} for name in names
            ]
        if job.resources.shm:
            pod["emptyDirMounts"] = [
                {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": str(job.resources.shm)}  # noqa: S108
            ]
        if (size := len(json.dumps(pod))) > LIMIT:
            text = f"what is told of the pod has {size} bytes, and KFP takes {LIMIT}; give it fewer tags and labels"
            raise Unsupported(str(job.fail(("tags",) if job.tags else ("labels",), text)))
        return pod

    def _secret(self, name: str) -> dict[str, Any]:
        found, key = secret(self.settings, name)
        return {
            "secretName": found,
            "secretNameParameter": {"runtimeValue": {"constant": found}},
            "keyToEnv": [{"secretKey": key, "envVar": name}],
            "optional": False,
        }

    def _resources(self) -> dict[str, Any]:
        """In the words of this KFP, and in those that older servers know."""
        asked, found = self.job.resources, dict[str, Any]()
        if asked.cpu:
            found |= {"resourceCpuRequest": f"{asked.cpu:g}", "cpuRequest": float(asked.cpu)}
        if asked.memory:
            mebibytes = -(-asked.memory // 2**20)
            found |= {f"resourceMemory{part}": f"{mebibytes}Mi" for part in ("Request", "Limit")}
            found |= {f"memory{part}": mebibytes * 2**20 / 1e9 for part in ("Request", "Limit")}
        if asked.accelerators:
            resource, count = self.accelerator["resource"], str(asked.accelerators.count)
            found["accelerator"] = {
                "resourceType": resource, "resourceCount": count, "type": resource, "count": count,
            }  # fmt: skip
        return found

    def _file(self, path: str, source: str, sha256: str, size: int, keys: tuple[str, ...]) -> None:
        """In the run itself, as long as it has room."""
        path = f"{FILES}/{path}"
        if _REPLACED.search(path):
            raise Unsupported(
                str(self.job.fail(keys, f"{source}: Kubernetes or KFP would replace its name; rename it"))
            )
        self.uploads[path] = Upload(source, sha256, f"{_ADDRESS}{path}")
        self.size += 4 * -(-size // 3) + len(path.encode()) + 8


def _camel(toleration: Mapping[str, Any]) -> dict[str, Any]:
    return {"tolerationSeconds" if name == "toleration_seconds" else name: each for name, each in toleration.items()}


def _short(text: str) -> str:
    return text if len(text) <= DESCRIPTION else f"{text[: DESCRIPTION - 1]}…"


def _kept(value: Any) -> str:
    """JSON in which nothing finds a placeholder."""
    return json.dumps(value, sort_keys=True).replace("{{", "{\\u007b").replace("$(", "$\\u0028")


def stamped(plan: Plan, experiment: str, stamp: Stamp) -> dict[str, Any]:
    """The body of the request: the plan's run, with its files, its stamp and its experiment. Reads the files.

    Raises Unauthorized or Unavailable for a file that can't be read, Unavailable for one that has grown beyond what a run takes
    since the plan was made.
    """
    body: dict[str, Any] = json.loads(json.dumps(plan.request["run"]))
    (executor,) = body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    executor["container"]["args"] += [stamp.nonce or "-", *_files(plan.uploads)]
    if len(json.dumps(executor)) > LIMIT + 1000:
        raise Unavailable(f"{plan.name}: its files grew while it was submitted; try again")
    record = {"stamp": json.loads(stamp.to_json()), "outputs": plan.request["outputs"]}
    return {**body, "experiment_id": experiment, "runtime_config": {"parameters": {RECORD: _kept(record)}}}


def _files(uploads: Iterable[Upload]) -> Iterable[str]:
    for each in uploads:
        try:
            content = Path(each.source).read_bytes()
        except OSError as reason:
            raise refused(each.source, reason) from None
        yield each.address.removeprefix(_ADDRESS)
        yield base64.b64encode(content).decode()


def _record(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `stamped` put there. Raises ValueError for a run that is none of mlctl's."""
    found = json.loads(((run.get("runtime_config") or {}).get("parameters") or {}).get(RECORD) or "null")
    if not isinstance(found, dict) or not isinstance(found.get("stamp"), dict):
        raise ValueError("no run of mlctl's")
    return found


def stamp_of(run: Mapping[str, Any]) -> Stamp:
    """The stamp of a run. Raises ValueError for one that is none of mlctl's."""
    return Stamp.of_json(json.dumps(_record(run)["stamp"]))


def outputs_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Output -> its address. Raises ValueError likewise."""
    return dict(_record(run).get("outputs", {}))
