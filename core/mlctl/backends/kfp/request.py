"""A job as KFP gets it: a run of a pipeline of one task, in the intermediate representation, its code and small inputs in it.

Pure. What Kubernetes alone knows, volumes, Secrets, where a pod may run, is in the platform's part of the specification. What
mlctl has to know of a run again is its one parameter: KFP keeps it as it was sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.errors import Unavailable, Unsupported, did_you_mean, one_line
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp, Upload

from .ir import Parameter, document
from .launch import FILES, OUTER, ROOT, Launch, script
from .settings import grace, place, volumes

__all__ = ["LIMIT", "RECORD", "make", "outputs_of", "stamp_of", "stamped"]

LIMIT = 100_000
"""Bytes that the task's container may have, code and inputs of this machine in base64 included: KFP hands all of it to its driver
as one word, and Linux takes 128 KiB."""

RECORD = "mlctl"
"""The pipeline's parameter."""

_IMAGE = "python:{python}-slim"
_PYTHON = "3.12"
_REPLACED = re.compile(r"\{\{|\$\(")
_ADDRESS = "run:"


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported, and InvalidConfig for a setting that is wrong."""
    return _Maker(job, facts, name, settings, losses).plan()


class _Maker:
    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> None:
        self.job, self.facts, self.name, self.settings, self.losses = job, facts, name, settings, losses
        self.stem, _, self.attempt = name.rpartition("-")
        self.volumes = volumes(settings)
        self.mounted: dict[str, tuple[str, str]] = {}
        self.uploads: dict[str, Upload] = {}
        """Place in the pod -> the file that gets there."""
        self.size = 0
        self.copied: dict[str, str] = {}
        self.saved: dict[str, str] = {}
        if _REPLACED.search(job.image):
            raise job.fail(("image",), f"got {one_line(job.image)}, in which Kubernetes or KFP would replace something")
        for field in job.platforms.get("kfp", {}):
            raise job.fail(("platforms", "kfp", field), "unknown field; there are none for kfp")

    def plan(self) -> Plan:
        job, values = self.job, self.settings.values
        storage = str(values.get("storage", "")).rstrip("/")
        inputs = {name: self._input(name) for name in job.inputs}
        outputs, addresses = self._outputs(storage)
        if job.package:
            self._file(f"{FILES}/code.tar.gz", str(job.package.path), job.package.sha256, job.package.size, ("code",))
        checkpoints, claim = f"{ROOT}/checkpoints", ""
        if storage:
            runs = f"{self._path(storage)}/runs/{self.stem}"
            checkpoints, claim = f"{runs}/checkpoints", f"{runs}/{self.attempt}"
        places = contract.Places(inputs, outputs, f"{ROOT}/params.json", f"{ROOT}/metrics.jsonl", checkpoints)
        words = contract.argv(job, places)
        run = Run("kfp", *place(self.settings), self.name)
        env = {"PYTHONUNBUFFERED": "1", **contract.environment(job, places, str(run))}
        for text in (*words, *env.values()):
            if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
                raise job.fail(("command",), "a null byte, or half a character, can't be passed to a process")
        launch = Launch(
            words, env, json.dumps(job.values(), ensure_ascii=False), claim,
            folders=[*outputs.values(), *self.saved.values(), checkpoints], copied=self.copied,
            code=job.package is not None, requirements=job.requirement_lines, saved=self.saved,
            timeout=job.timeout or 0, grace=grace(self.settings),
        )  # fmt: skip
        text = script(launch)
        container: dict[str, Any] = {
            "image": self._image(),
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
            "description": job.description,
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
        sources: list[Mapping[str, Any]] = [values]
        if job.resources.accelerators:
            sources.append(self._accelerator())
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
                {"constant": claim, "mountPath": at, "pvcNameParameter": {"runtimeValue": {"constant": claim}}}
                for claim, at in self.mounted.values()
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
        return pod

    def _secret(self, name: str) -> dict[str, Any]:
        source = str(self.settings.values.get("secrets", {}).get(name, ""))
        match = re.fullmatch(r"k8s-secret:([a-z0-9][-a-z0-9.]*)/([-._A-Za-z0-9]+)", source)
        if not match:
            got = f"got a source of another sort ({source.partition(':')[0]}:)" if source else "it is not set"
            raise self.settings.fail(f"secrets.{name}", f"{got}, expected k8s-secret:NAME/KEY, of a Secret there")
        return {
            "secretName": match[1],
            "secretNameParameter": {"runtimeValue": {"constant": match[1]}},
            "keyToEnv": [{"secretKey": match[2], "envVar": name}],
            "optional": False,
        }

    def _image(self) -> str:
        job = self.job
        image = job.image or str(self.settings.values.get("image", _IMAGE))
        if job.image or "{python}" in image:
            return job.image or image.replace("{python}", job.python or _PYTHON)
        if job.python:
            text = f"got '{image}' for every Python, and the job wants {job.python}; put {{python}} where its version belongs"
            raise self.settings.fail("image", text)
        return image

    def _accelerator(self) -> Mapping[str, Any]:
        asked = self.job.resources.accelerators
        assert asked is not None  # noqa: S101 - whoever calls has looked
        known: Mapping[str, Mapping[str, Any]] = self.settings.values.get("accelerators", {})
        if asked.name not in known:
            near = did_you_mean(asked.name, known) or f"; it has {', '.join(known) or 'none'}"
            text = f"got '{asked.name}', which targets.{self.settings.target}.accelerators doesn't name{near}"
            raise Unsupported(str(self.job.fail(("resources", "accelerators"), text)))
        return known[asked.name]

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
            resource, count = self._accelerator()["resource"], str(asked.accelerators.count)
            found["accelerator"] = {
                "resourceType": resource, "resourceCount": count, "type": resource, "count": count,
            }  # fmt: skip
        return found

    def _file(self, path: str, source: str, sha256: str, size: int, keys: tuple[str, ...]) -> None:
        """Has a file of this machine in the run, at `path` of the pod."""
        if _REPLACED.search(path):
            raise Unsupported(
                str(self.job.fail(keys, f"{source}: Kubernetes or KFP would replace its name; rename it"))
            )
        self.uploads[path] = Upload(source, sha256, f"{_ADDRESS}{path}")
        self.size += 4 * -(-size // 3) + len(path.encode()) + 8

    def _path(self, uri: str, setting: str = "storage") -> str:
        """The pod's path of volume://NAME/PATH, which is mounted for it."""
        name, _, path = uri.partition("://")[2].partition("/")
        if name not in self.volumes or ".." in path.split("/"):
            known = ", ".join(self.volumes) or "none"
            text = f"got {one_line(uri)}, expected volume://NAME/PATH with one of targets.{self.settings.target}.volumes: {known}"
            raise self.settings.fail(setting, text) if setting else ValueError(text)
        self.mounted[name] = self.volumes[name]
        return f"{self.volumes[name][1]}/{path}".rstrip("/")

    def _input(self, name: str) -> str:
        """An input's place in the pod."""
        each = self.job.inputs[name]
        if name in self.facts["inputs"]:
            local, at = data.Local.of_json(self.facts["inputs"][name]), f"{FILES}/inputs/{name}"
            for file, digest in local.files:
                source = local.path if local.single else str(PurePosixPath(local.path, file))
                self._file(f"{at}/{file}", source, digest, self.facts["sizes"][source], ("inputs", name))
            return f"{at}/{local.files[0][0]}" if local.single else at
        try:
            found = self._path(each.uri, "")
        except ValueError as reason:
            raise Unsupported(str(self.job.fail(("inputs", name), str(reason)))) from None
        if each.mode != "download":
            return found
        self.copied[found] = f"{ROOT}/inputs/{name}/{PurePosixPath(found).name}"
        return self.copied[found]

    def _outputs(self, storage: str) -> tuple[dict[str, str], dict[str, str]]:
        """Output -> its place in the pod; output -> its address once the run has ended."""
        places, addresses = {}, {}
        for name, each in self.job.outputs.items():
            if not each.uri and not storage:
                text = f"it is not set, and the job leaves {name}; expected a folder of a volume such as volume://data/mlctl"
                raise self.settings.fail("storage", text)
            address = (
                f"{each.uri.rstrip('/')}/{self.name}/{name}"
                if each.uri
                else f"{storage}/runs/{self.stem}/{self.attempt}/outputs/{name}"
            )
            if data.scheme(address) != "volume":
                text = f"got '{each.uri}', and a run on KFP writes to volumes of the target only, such as volume://data/models"
                raise Unsupported(str(self.job.fail(("outputs", name, "uri"), text)))
            try:
                found = self._path(address, "" if each.uri else "storage")
            except ValueError as reason:
                raise Unsupported(str(self.job.fail(("outputs", name, "uri"), str(reason)))) from None
            addresses[name], places[name] = address, found
            if each.mode == "upload":
                places[name] = f"{ROOT}/outputs/{name}"
                self.saved[places[name]] = found
        return places, addresses


def _camel(toleration: Mapping[str, Any]) -> dict[str, Any]:
    return {"tolerationSeconds" if name == "toleration_seconds" else name: each for name, each in toleration.items()}


def _kept(value: Any) -> str:
    """JSON in which nothing finds a placeholder."""
    return json.dumps(value, sort_keys=True).replace("{{", "{\\u007b").replace("$(", "$\\u0028")


def stamped(plan: Plan, experiment: str, stamp: Stamp) -> dict[str, Any]:
    """The body of the request: the plan's run, with its files, its stamp and its experiment. Reads the files.

    Raises Unavailable for a file that can't be read, or has grown beyond what a run takes since the plan was made.
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
            raise Unavailable(f"{each.source}: {reason.strerror or reason}") from None
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
