"""The job: what to run, portable. Every field has its type; sizes are in bytes, times in seconds, paths absolute.

A `Job` knows no platform; what only one has stands under `platforms` and is that platform's to check. jobfile.py reads
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import dependencies
from .command import Command
from .document import Document, Keys
from .errors import InvalidJob
from .kinds import KINDS, Kind

if TYPE_CHECKING:
    from .package import Package

__all__ = ["KINDS", "Accelerators", "Distribution", "Input", "Job", "Kind", "Output", "Param", "Resources"]

JSON = Any
"""A value that JSON can carry."""


@dataclass(frozen=True)
class Param:
    """A parameter: its JSON Schema type, and its value for this run (None where none was given yet)."""

    type: str
    value: JSON = None
    minimum: float | None = None
    maximum: float | None = None
    enum: tuple[JSON, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class Input:
    """What the job reads. `uri` is an absolute path or a URI, empty where none was given yet; no `mode`: the platform's
    choice."""

    uri: str = ""
    type: str = "artifact"
    mode: str = ""


@dataclass(frozen=True)
class Output:
    """What the job leaves, a folder. Below `uri`, where there is one, each run's output gets a folder of its own."""

    type: str
    uri: str = ""
    mode: str = ""


@dataclass(frozen=True)
class Accelerators:
    name: str
    count: int = 1


@dataclass(frozen=True)
class Resources:
    """What each node has: cores, bytes, accelerators. None where the platform chooses."""

    cpu: float | None = None
    memory: int | None = None
    accelerators: Accelerators | None = None
    disk: int | None = None
    shm: int | None = None
    spot: bool = False
    nodes: int = 1


@dataclass(frozen=True)
class Distribution:
    type: str
    processes_per_node: int = 1


@dataclass(frozen=True)
class Job:
    """What to run. `written` is the job as its author wrote it, parameters and inputs of this run included."""

    kind: Kind
    name: str
    command: Command
    written: Mapping[str, JSON] = field(repr=False)
    document: Document = field(repr=False, compare=False)
    description: str = ""
    code: Path | None = None
    image: str = ""
    python: str = ""
    requirements: Path | tuple[str, ...] = ()
    params: Mapping[str, Param] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    resources: Resources = Resources()
    distribution: Distribution | None = None
    timeout: int | None = None
    queue_timeout: int | None = None
    retry: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    platforms: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    package: Package | None = None
    """The code, packed; set by `snapshot`."""
    requirement_lines: tuple[str, ...] = ()
    """What `requirements` says, read; set by `snapshot`."""

    def fail(self, keys: Keys, text: str) -> InvalidJob:
        """The error to raise about the field at `keys`, with the file and the line."""
        error = replace(self.document, error=InvalidJob).fail(keys, text)
        assert isinstance(error, InvalidJob)  # noqa: S101 - as the line before says
        return error

    def values(self) -> dict[str, JSON]:
        """The parameters of this run, by name. Raises InvalidJob for one that has no value."""
        for name, param in self.params.items():
            if param.value is None:
                raise self.fail(("params", name), f"has no value and no default; give one: --param {name}=VALUE")
        return {name: param.value for name, param in self.params.items()}

    def complete(self) -> None:
        """Raises InvalidJob unless every parameter has a value and every input an address."""
        self.values()
        for name, each in self.inputs.items():
            if not each.uri:
                raise self.fail(("inputs", name), f"has no uri; give one: --input {name}=PATH")

    def snapshot(self, store: Path) -> Job:
        """This job with all that it needs of the disk read, once: the code packed into `store`, the requirements read.

        Raises InvalidJob for a folder or file that can't be shipped; Unavailable where `store` can't be written.
        """
        self.complete()
        return self.packed(store)

    def packed(self, store: Path) -> Job:
        """As `snapshot`, for a job that need not be complete: what its parameters and inputs are doesn't matter."""
        given = self.requirements
        if isinstance(given, Path):
            lines = _requirements(given, self.fail, ())
        else:
            lines = _lines("\n".join(given), self.document.folder, "", self.fail, ())
        package = None
        if self.code is not None:
            from .package import pack

            try:
                package = pack(self.code, store)
            except InvalidJob as error:
                raise self.fail(("code",), str(error)) from None
            if not package.files:
                raise self.fail(("code",), f"{self.code}: nothing to ship: it is empty, or all of it is left out")
        return replace(self, package=package, requirement_lines=lines)

    def _asked(self, target: str) -> dict[str, JSON]:
        """What is asked for, as the digest sees it: the job as written, its code and requirements, and the target's
        name.

        Not what a platform or a setting adds, nor the description, so that neither makes it another job.
        """
        asked = {
            name: value for name, value in self.written.items() if name not in ("description", "code", "requirements")
        }
        if self.package:
            asked["code"] = self.package.sha256
        if self.requirement_lines:
            asked["requirements"] = list(self.requirement_lines)
        return {**asked, "target": target}

    def digest(self, target: str) -> str:
        """sha256, in hex, of what is asked for; the same for the same job wherever it is asked."""
        return _sha256(self._asked(target))

    def parts(self, target: str) -> str:
        """`code=1f3a9c params=...`: six digits of each field's digest, enough to say which one changed."""
        return " ".join(f"{name}={_sha256(value)[:6]}" for name, value in sorted(self._asked(target).items()))


def _sha256(value: JSON) -> str:
    import hashlib  # whose OpenSSL nobody needs who only checks a file

    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _requirements(path: Path, fail: Any, seen: tuple[Path, ...]) -> tuple[str, ...]:
    """The requirements in a file."""
    if path in seen:
        raise fail(("requirements",), f"{path}: includes itself")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise ValueError("is not a regular file")
        if path.name in dependencies.EXPORT:
            raise ValueError(f"only its own tool reads it: {dependencies.EXPORT[path.name]}")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".toml":
            text = dependencies.lines(text, path.name)
    except (OSError, ValueError) as reason:
        raise fail(("requirements",), f"{path}: {getattr(reason, 'strerror', '') or reason}") from None
    return _lines(text, path.parent, f"{path}: ", fail, (*seen, path))


def _lines(text: str, folder: Path, where: str, fail: Any, seen: tuple[Path, ...]) -> tuple[str, ...]:
    """The requirements in `text`, those of the files it includes in their place; comments and options' spaces
    dropped."""
    lines: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        include = re.match(r"(?:-r\s*|--requirement[\s=]+)(.+)", line)
        local = re.match(
            r"(?:-e|--editable|-c|--constraint|-f|--find-links)\b|[./]|file:|[^\s@]+\s*@\s*(?:file:|[./])", line
        )
        if include:
            lines += _requirements((folder / include[1]).resolve(), fail, seen)
        elif local:
            text = f"{where}{line!r} is a path of this machine; name a package, or ship it in code:"
            raise fail(("requirements",), text)
        elif line:
            lines.append(" ".join(line.split()))
    return tuple(lines)
