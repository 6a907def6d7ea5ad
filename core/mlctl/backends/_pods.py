"""What Kubernetes and Kubeflow Pipelines share, as both run a job in a pod: settings, the image and the accelerator, and where
the job's files, inputs and outputs are; and a server's clock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.errors import Unsupported, did_you_mean, one_line, refused
from mlctl.job import Job
from mlctl.values import Allowed, flag, text, words

__all__ = [
    "METRICS", "NAME", "SETTINGS", "Clock", "Layout", "Volume", "accelerator", "image", "local_facts", "metric_lines", "secret",
    "volumes_of",
]  # fmt: skip

NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
"""What Kubernetes calls its objects."""

METRICS = "mlctl.file "
"""How a line of the log begins that has a line of the metrics file: the launch scripts say them on the log's end."""


class Clock:
    """A server's, as far as its last answer told it: this machine's may be another."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def hear(self, headers: Mapping[str, str]) -> None:
        """Those of an answer that came just now; without a date they change nothing."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._ahead = parsedate_to_datetime(headers["Date"]).timestamp() - time.time()

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._ahead, timezone.utc)


_IMAGE = "python:{python}-slim"
_PYTHON = "3.12"
_VOLUME: Mapping[str, Callable[[Any], bool]] = {
    "claim": text(NAME),
    "host": text(r"/.*"),
    "nfs": text(r"[^:/]+:/.*"),
    "at": text(r"(/[A-Za-z0-9._-]+)+"),
    "read_only": flag,
}
_SOURCES = {"claim", "host", "nfs"}


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(text(NAME)(each) for each in value)


SETTINGS: Allowed = {
    "image": (text(r"\S+"), "an image, {python} in it standing for the job's Python, such as python:{python}-slim"),
    "image_pull_secrets": (_names, "a list of names of Secrets"),
    "service_account": (text(NAME), "the name of a service account"),
    "node_selector": (words, "a mapping of labels to values, each a string"),
}
"""The settings that both have, and take alike."""


def volumes_of(*fields: str) -> Callable[[Any], bool]:
    """Whether a setting is a mapping of names to volumes, each with one source, and no other fields than `fields`."""

    def right(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            text(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")(name)
            and isinstance(each, Mapping)
            and each.keys() <= set(fields)
            and len(each.keys() & _SOURCES) == 1
            and all(_VOLUME[field](one) for field, one in each.items())
            for name, each in value.items()
        )

    return right


@dataclass(frozen=True)
class Volume:
    """One of the target's volumes: its source, one of `claim`, `host` and `nfs`, and where the job sees it."""

    at: str
    claim: str = ""
    host: str = ""
    nfs: str = ""
    read_only: bool = False


def secret(settings: Settings, name: str, at: str = "secrets") -> tuple[str, str]:
    """The Secret and the key in it that a variable comes from, as the setting `at` says. Raises InvalidConfig."""
    pattern = r"k8s-secret:([a-z0-9][-a-z0-9.]*)/([-._A-Za-z0-9]+)"
    match = settings.reference(name, pattern, "k8s-secret:NAME/KEY, of a Secret there", at)
    return match[1], match[2]


def image(job: Job, settings: Settings) -> str:
    """The job's image, else the target's. Raises InvalidConfig where that has no place for the Python that the job wants."""
    named = job.image or str(settings.values.get("image", _IMAGE))
    if job.image or "{python}" in named:
        return job.image or named.replace("{python}", job.python or _PYTHON)
    if job.python:
        text = (
            f"got '{named}' for every Python, and the job wants {job.python}; put {{python}} where its version belongs"
        )
        raise settings.fail("image", text)
    return named


def accelerator(job: Job, settings: Settings) -> Mapping[str, Any]:
    """What the target says of the job's accelerator; nothing where it asks for none. Raises Unsupported for an unknown one."""
    asked = job.resources.accelerators
    if asked is None:
        return {}
    known: Mapping[str, Mapping[str, Any]] = settings.values.get("accelerators", {})
    if asked.name not in known:
        near = did_you_mean(asked.name, known) or f"; it has {', '.join(known) or 'none'}"
        text = f"got '{asked.name}', which targets.{settings.target}.accelerators doesn't name{near}"
        raise Unsupported(str(job.fail(("resources", "accelerators"), text)))
    return known[asked.name]


def local_facts(job: Job, empty: str) -> dict[str, Any]:
    """Of the facts, the inputs that are on this machine, and the size of each of their files; `empty` as `local_inputs` has it."""
    found = data.local_inputs(job, empty)
    sizes = {}
    for local in map(data.Local.of_json, found.values()):
        for name, _ in local.files:
            source = local.source(name)
            try:
                sizes[source] = Path(source).stat().st_size
            except OSError as reason:
                raise refused(source, reason) from None
    return {"inputs": found, "sizes": sizes}


def metric_lines(log: str) -> list[str]:
    """What the metrics file held, from the whole log."""
    return [line.partition(METRICS)[2] for line in log.split("\n") if METRICS + "{" in line]


class Layout:
    """Where a run's files, inputs and outputs are in its pod, and what is mounted, copied and saved for that.

    What takes a file of this machine to the pod, and where outputs may be but on volumes, is the platform's own.
    """

    root: str
    """A folder of the pod's own; `files` in it has the files of this machine."""
    writes: str
    """Where a run of the platform writes to, for the message."""

    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings) -> None:
        self.job, self.facts, self.name, self.settings = job, facts, name, settings
        self.stem, _, self.attempt = name.rpartition("-")
        self.storage = str(settings.values.get("storage", "")).rstrip("/")
        self.volumes = {
            name: Volume(**{"at": f"/mnt/{name}", **each}) for name, each in settings.values.get("volumes", {}).items()
        }
        self.mounted: dict[str, Volume] = {}
        self.copied: dict[str, str] = {}
        """An input's place -> where it is copied to."""
        self.saved: dict[str, str] = {}
        """An output's place -> where it is copied to after success."""
        self.runs = ""
        """The folder of a volume that all attempts of the run share; none where `storage` is not on a volume."""

    def places(self) -> tuple[contract.Places, dict[str, str]]:
        """Where everything is in the pod; output -> its address once the run has ended. Raises InvalidConfig, Unsupported."""
        job, root = self.job, self.root
        inputs = {name: self._input(name) for name in job.inputs}
        addresses = {name: self._address(name) for name in job.outputs}
        outputs = {name: self._output(name, address) for name, address in addresses.items()}
        if job.package:
            self._file("code.tar.gz", str(job.package.path), job.package.sha256, job.package.size, ("code",))
        if data.scheme(self.storage) == "volume":
            self.runs = f"{self._path(self.storage, 'storage')}/runs/{self.stem}"
        checkpoints = f"{self.runs or root}/checkpoints"
        return contract.Places(inputs, outputs, f"{root}/params.json", f"{root}/metrics.jsonl", checkpoints), addresses

    def _file(self, path: str, source: str, sha256: str, size: int, keys: tuple[str, ...]) -> None:
        """Has a file of this machine at `path` below `files`. Raises Unsupported, naming the field, for what can't be there."""
        raise NotImplementedError

    def _path(self, uri: str, setting: str = "") -> str:
        """The pod's path of volume://NAME/PATH, which is mounted for it. Raises ValueError for no volume of the target."""
        name, _, path = uri.partition("://")[2].partition("/")
        if name not in self.volumes or ".." in path.split("/"):
            known = ", ".join(self.volumes) or "none"
            text = f"got {one_line(uri)}, expected volume://NAME/PATH with one of targets.{self.settings.target}.volumes: {known}"
            raise self.settings.fail(setting, text) if setting else ValueError(text)
        self.mounted[name] = self.volumes[name]
        return f"{self.volumes[name].at}/{path}".rstrip("/")

    def _input(self, name: str) -> str:
        """An input's place in the pod."""
        each = self.job.inputs[name]
        if name in self.facts["inputs"]:
            local = data.Local.of_json(self.facts["inputs"][name])
            for file, digest in local.files:
                source = local.source(file)
                self._file(f"inputs/{name}/{file}", source, digest, self.facts["sizes"][source], ("inputs", name))
            at = f"{self.root}/files/inputs/{name}"
            return f"{at}/{local.files[0][0]}" if local.single else at
        try:
            place = self._path(each.uri)
        except ValueError as reason:
            raise Unsupported(str(self.job.fail(("inputs", name), str(reason)))) from None
        if each.mode != "download":
            return place
        self.copied[place] = f"{self.root}/inputs/{name}/{PurePosixPath(place).name}"
        return self.copied[place]

    def _address(self, name: str) -> str:
        """An output's address."""
        if not self.job.outputs[name].uri and not self.storage:
            text = f"it is not set, and the job leaves {name}; expected a folder such as volume://data/mlctl"
            raise self.settings.fail("storage", text)
        return data.output(self.job, name, self.name, f"{self.storage}/runs/{self.stem}/{self.attempt}/outputs")

    def _output(self, name: str, address: str) -> str:
        """An output's place in the pod."""
        each = self.job.outputs[name]
        if data.scheme(address) != "volume":
            raise Unsupported(str(self.job.fail(("outputs", name, "uri"), f"got '{each.uri}', and {self.writes}")))
        try:
            place = self._path(address, "" if each.uri else "storage")
        except ValueError as reason:
            raise Unsupported(str(self.job.fail(("outputs", name, "uri"), str(reason)))) from None
        if self.volumes[address.partition("://")[2].partition("/")[0]].read_only:
            raise Unsupported(str(self.job.fail(("outputs", name), f"{address}: that volume is read_only")))
        if each.mode != "upload":
            return place
        at = f"{self.root}/outputs/{name}"
        self.saved[at] = place
        return at
