"""A job as Kubernetes gets it: a Job of batch/v1, the ConfigMaps that its files are in, and, for several nodes, a headless
Service. Pure.

Everything but files is in the Job itself, so that a run is one object, there or not. Kubernetes replaces `$(NAME)` in
words and variables; a doubled `$` stands for one, so each is doubled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.backends._pods import Layout
from mlctl.errors import Unsupported
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp, Upload

from . import staging
from .launch import ROOT, Launch, script
from .pod import Pod
from .settings import duration

__all__ = [
    "ALL", "DOMAIN", "FILE_LIMIT", "MANAGED", "configmap", "make", "merged", "missing", "record", "stamp_of", "stamped",
]  # fmt: skip

DOMAIN = "mlctl.io"
"""How our labels and annotations begin."""

MANAGED = {"app.kubernetes.io/managed-by": "mlctl"}
"""The label of all that mlctl makes."""

ALL = ",".join(f"{name}={value}" for name, value in MANAGED.items())
"""Selects it."""

FILE_LIMIT = 1_000_000
"""Bytes that one file may have: a ConfigMap holds 1 MiB."""

_FILES = 100  # ConfigMaps of one run
_WHOLE = 1_000_000  # bytes: etcd takes 1.5 MiB


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported, and InvalidConfig for a setting that is wrong."""
    return _Maker(job, facts, name, settings, losses).plan()


class _Maker(Layout):
    root = ROOT
    writes = "Kubernetes writes to volumes of the target and object stores: " + ", ".join(
        ["volume://data/models", *(f"{one}:" for one in sorted(staging.STORES))]
    )

    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> None:
        super().__init__(job, facts, name, settings)
        self.losses = list(losses)
        self.nodes = job.resources.nodes
        self.service = f"mlctl-{'-'.join(name.rsplit('-', 2)[1:])}" if self.nodes > 1 else ""
        self.uploads: list[Upload] = []
        self.files: dict[str, str] = {}
        """Path below FILES -> the ConfigMap that holds it."""
        self.fetched: dict[str, str] = {}
        self.uploaded: dict[str, str] = {}
        """The pod's path -> address in an object store."""

    def plan(self) -> Plan:
        job, values = self.job, self.settings.values
        places, addresses = self.places()
        run = Run("kubernetes", self.facts["account"], self.facts["namespace"], self.name)
        words = contract.argv(job, places)
        env = {"PYTHONUNBUFFERED": "1", **contract.environment(job, places, str(run))}
        launch = Launch(
            json.dumps(job.values(), ensure_ascii=False),
            f"{self.runs}/{self.attempt}/started-" if self.runs else "",
            folders=[*places.outputs.values(), *self.saved.values(), places.checkpoints], copied=self.copied,
            code=job.package is not None, requirements=job.requirement_lines, saved=self.saved,
            staged=bool(self.uploaded), nodes=self.nodes,
            master=f"{self.name}-0.{self.service}" if self.service else "127.0.0.1",
            distribution=contract.distribution(job, "MPI wants a launcher of its own in the image"),
        )  # fmt: skip
        text = script(launch)
        self._check([text, *words], env)
        pod = Pod(job, self.settings, self.losses)
        container = pod.container(
            ["/bin/sh", "-c", _escaped(text), "mlctl"],
            [_escaped(word) for word in words],
            {key: _escaped(value) for key, value in env.items()},
        )
        spec = staging.added(pod.spec(container, self.files, self.mounted), self.settings, self.fetched, self.uploaded)
        if self.service:
            spec["subdomain"] = self.service
        labels = {
            **job.labels, **MANAGED,
            f"{DOMAIN}/job": job.name, f"{DOMAIN}/stem": self.stem, f"{DOMAIN}/run": self.name,
        }  # fmt: skip
        template = merged({"metadata": {"labels": labels}, "spec": spec}, values.get("template", {}))
        native = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": self.name,
                "namespace": self.facts["namespace"],
                "labels": {**labels, **self._queue()},
                "annotations": {f"{DOMAIN}/record": json.dumps(self._record(addresses), sort_keys=True)},
            },
            "spec": {**self._job(), "template": template},
        }
        if job.tags:
            native["metadata"]["annotations"][f"{DOMAIN}/tags"] = json.dumps(list(job.tags), ensure_ascii=False)  # type: ignore[index]
        if len(json.dumps(native, ensure_ascii=False).encode()) > _WHOLE:
            raise job.fail(("command",), f"the whole Job has more than {_WHOLE} bytes; put long values into a file")
        request: dict[str, Any] = {"job": native}
        if self.service:
            request["service"] = self._headless(labels)
        return Plan(
            self.name, "kubernetes", self.settings.target, request, tuple(self.uploads), tuple(self.losses)
        )  # fmt: skip

    def _job(self) -> dict[str, Any]:
        """The Job's own spec: started once, kept for a while, and ended by the server where nobody asks any more."""
        job = self.job
        spec: dict[str, Any] = {
            "backoffLimit": 0,
            "completions": self.nodes,
            "parallelism": self.nodes,
            "ttlSecondsAfterFinished": duration(self.settings, "ttl", "7d"),
            "podFailurePolicy": {
                "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
        }
        if self.nodes > 1:
            spec["completionMode"] = "Indexed"
        if job.timeout:  # of each pod from its own start (see pod.py); this is for one that never starts
            spec["activeDeadlineSeconds"] = job.timeout + self._patience()
        if self._queue():
            spec["suspend"] = True
        return spec

    def _patience(self) -> int:
        return self.job.queue_timeout or duration(self.settings, "queue_timeout", "30m")

    def _queue(self) -> dict[str, str]:
        own = self.job.platforms.get("kubernetes", {})
        queue = own.get("queue") or self.settings.values.get("queue")
        return {"kueue.x-k8s.io/queue-name": str(queue)} if queue else {}

    def _record(self, addresses: Mapping[str, str]) -> dict[str, Any]:
        """What whoever reads the run needs to know of it, beside its stamp."""
        return {
            "outputs": addresses,
            "patience": self._patience(),
            "queued": self.job.queue_timeout is not None,  # then the time in a queue counts, too
            "files": sorted(set(self.files.values())),
            "service": self.service,
            "needs": sorted(
                {"completionMode", "suspend"} & self._job().keys()
            ),  # to be there still: see states.dropped
        }

    def _headless(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Gives pod number n the name RUN-n.SERVICE, from before it is ready."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.service, "namespace": self.facts["namespace"], "labels": dict(labels)},
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": {f"{DOMAIN}/run": self.name},
            },
        }

    def _file(self, path: str, source: str, sha256: str, size: int, keys: tuple[str, ...]) -> None:
        """In a ConfigMap, which holds so much and no more."""
        if size > FILE_LIMIT:
            way = (
                "build it into an image" if keys == ("code",) else "put it on a volume of the target, or into an image"
            )
            text = f"{source}: {size} bytes, and a ConfigMap, which takes it there, holds {FILE_LIMIT}; {way}"
            raise Unsupported(str(self.job.fail(keys, text)))
        made = f"mlctl-{sha256[:40]}"
        self.uploads.append(Upload(source, sha256, f"configmap:{self.facts['namespace']}/{made}"))
        self.files[path] = made
        if len(self.files) > _FILES:
            text = f"more than {_FILES} files, each of which takes a ConfigMap; pack them, or put them on a volume of the target"
            raise Unsupported(str(self.job.fail(keys, text)))

    def _input(self, name: str) -> str:
        uri, mode = self.job.inputs[name].uri, self.job.inputs[name].mode
        if data.scheme(uri) not in staging.STORES:
            return super()._input(name)
        place = f"{ROOT}/inputs/{name}/{PurePosixPath(uri).name}"
        self.fetched[place] = self._reached(uri, mode, ("inputs", name))
        return place

    def _output(self, name: str, address: str) -> str:
        if data.scheme(address) not in staging.STORES:
            return super()._output(name, address)
        place = f"{ROOT}/outputs/{name}"
        self.uploaded[place] = self._reached(address, self.job.outputs[name].mode, ("outputs", name))
        return place

    def _reached(self, address: str, mode: str, keys: tuple[str, ...]) -> str:
        """The address in an object store. Raises Unsupported where the target has no way to it, or it would be mounted."""
        if "stage" not in self.settings.values:
            stage = f"targets.{self.settings.target}.stage"
            text = f"got '{address}', and {stage} names no image that reaches it; set that, or use a volume"
            raise Unsupported(str(self.job.fail(keys, text)))
        if mode == "mount":
            text = f"got 'mount' of '{address}', which is copied; leave mode out, or mount it as a volume of the target"
            raise Unsupported(str(self.job.fail((*keys, "mode"), text)))
        return address

    def _check(self, words: list[str], env: Mapping[str, str]) -> None:
        texts = (*words, *env.values())
        contract.passable(self.job, texts, contract.WORD, "parameters, or a word or variable,", "use a file")
        for name in {"job-name", "controller-uid"} & self.job.labels.keys():
            raise self.job.fail(("labels", name), "Kubernetes sets a label of that name itself; choose another")


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def merged(base: Any, over: Any) -> Any:
    """`over` laid over `base`: mappings by key, lists of what has names by name, other lists one after the other."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        both = {name: merged(base[name], over[name]) if name in base else over[name] for name in over}
        return {**base, **both}
    if isinstance(base, list) and isinstance(over, list):
        named = [each for each in over if isinstance(each, Mapping) and "name" in each]
        kept = {each["name"]: each for each in named}
        found = [merged(each, kept.pop(each["name"])) if _name(each) in kept else each for each in base]
        return [*found, *(each for each in over if _name(each) is None or _name(each) in kept)]
    return over


def _name(each: Any) -> Any:
    return each.get("name") if isinstance(each, Mapping) else None


def stamped(job: Mapping[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The Job with its stamp."""
    metadata = job["metadata"]
    annotations = {**metadata["annotations"], f"{DOMAIN}/stamp": stamp.to_json()}
    return {**job, "metadata": {**metadata, "annotations": annotations}}


def stamp_of(job: Mapping[str, Any]) -> Stamp:
    """The stamp of a Job. Raises ValueError for one that is none of mlctl's."""
    return Stamp.of_json((job["metadata"].get("annotations") or {}).get(f"{DOMAIN}/stamp", ""))


def record(job: Mapping[str, Any]) -> dict[str, Any]:
    """What `_record` kept; empty for a Job that is none of mlctl's."""
    try:
        found = json.loads((job["metadata"].get("annotations") or {}).get(f"{DOMAIN}/record", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def configmap(upload: Upload, content: str) -> dict[str, Any]:
    """The ConfigMap that an upload is put into; `content` in base64. Its name has its digest in it: it never changes."""
    namespace, _, name = upload.address.removeprefix("configmap:").partition("/")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "immutable": True,
        "metadata": {"name": name, "namespace": namespace, "labels": dict(MANAGED)},
        "binaryData": {"file": content},
    }


def missing(sent: Any, kept: Any, path: str = "") -> list[str]:
    """The fields of `sent` that `kept` lacks: a server drops those that it doesn't know, silently. Values may differ, and an
    admission webhook may have put others in front: what has a name is looked for by it, wherever it stands."""
    if isinstance(sent, Mapping):
        if not isinstance(kept, Mapping):
            return [path]
        found: list[str] = []
        for name, value in sent.items():
            at = f"{path}.{name}".lstrip(".")
            if name not in kept:
                found += [] if value in (None, "", [], {}) or value is False or value == 0 else [at]
            else:
                found += missing(value, kept[name], at)
        return found
    if isinstance(sent, list) and isinstance(kept, list):
        return [each for one in sent if isinstance(one, Mapping) for each in _lacking(one, kept, path)]
    return []


def _lacking(sent: Mapping[str, Any], kept: list[Any], path: str) -> list[str]:
    """The same, of that of a list which is most like it."""
    same = [each for each in kept if _name(each) == _name(sent)]
    return min((missing(sent, each, path) for each in same), key=len, default=[path])
