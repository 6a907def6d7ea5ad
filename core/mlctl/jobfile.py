"""The job file: a job as people write it, read, checked against the schema, and bound to the values of one run."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import document, schemas, units
from .command import Command, Placeholder, placeholders, text_of, variable
from .document import Document, Keys
from .errors import InvalidJob, did_you_mean, one_line
from .job import JSON, KINDS, Accelerators, Distribution, Input, Job, Kind, Output, Param, Resources

__all__ = ["load"]

_ORCHESTRATOR = (
    "belongs in your orchestrator, which composes jobs (an Airflow DAG, a KFP pipeline, a Prefect flow, a Jenkinsfile); "
    "remove it here"
)
_ELSEWHERE = {
    **dict.fromkeys(
        (
            "schedule", "cron", "depends_on", "dependencies", "needs", "upstream", "downstream", "steps", "stages", "tasks",
            "notifications", "notify", "on_failure", "on_success", "triggers", "trigger",
        ),
        _ORCHESTRATOR,
    ),
    **dict.fromkeys(
        ("target", "backend", "platform", "region", "role", "profile"),
        "is not the job's to say: targets and profiles stand in mlctl.yaml, or --target; "
        "what only one platform has, under platforms:",
    ),
}  # fmt: skip


def load(
    source: Job | Mapping[str, JSON] | str | Path,
    params: Mapping[str, JSON] | None = None,
    inputs: Mapping[str, str] | None = None,
    defaults: Mapping[str, JSON] | None = None,
) -> Job:
    """The job in a file, or in a mapping that has what a file would, with parameters and inputs of this run.

    A parameter may be of its type or the text of it ("0.1"). A relative path counts from the job file; in a mapping,
    and in `inputs`, from the working folder. `defaults` are the configuration's, for fields that the job leaves out.
    Raises InvalidJob with file, line and field; Unavailable where the disk fails.
    """
    if isinstance(source, Job):
        doc, written = source.document, dict(source.written)
    else:
        if isinstance(source, Mapping):
            doc = _plain(source)
        elif isinstance(source, (str, os.PathLike)):
            doc = document.read(Path(source), InvalidJob)
        else:
            raise InvalidJob(f"job: got {one_line(source)}, expected a mapping of fields, or the path of a file")
        written = dict(doc.data)
    schemas.check(doc, "job", _ELSEWHERE)
    written = _bound(doc, written, params or {}, inputs or {})
    return _Reader(doc, _merged(written, defaults or {})).job(written)


def _plain(source: Mapping[str, JSON]) -> Document:
    doc = Document("job", {}, error=InvalidJob, folder=Path().absolute())
    try:
        return replace(doc, data=_as_json(source, doc))
    except RecursionError:
        raise InvalidJob("job: nested too deeply") from None


def _as_json(value: Any, doc: Document, keys: Keys = ()) -> JSON:
    """`value`, which is `doc`'s at `keys`, as JSON carries it: a path is its text, a tuple a list. Raises for what it can't."""

    def plain(value: Any, keys: Keys) -> JSON:
        if isinstance(value, Mapping):
            if text := document.misnamed(value):
                raise doc.fail(keys, text)
            return {name: plain(each, (*keys, name)) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each, (*keys, at)) for at, each in enumerate(value)]
        if isinstance(value, os.PathLike):
            return str(value)
        if not isinstance(value, (str, int, float, bool, type(None))) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise doc.fail(keys, f"got {one_line(value)}, which JSON can't carry")
        return value

    return json.loads(json.dumps(plain(value, keys)))


def _merged(written: Mapping[str, JSON], defaults: Mapping[str, JSON]) -> dict[str, JSON]:
    """`written` over `defaults`; mappings (env, labels, resources, retry) are joined key by key."""
    merged = dict(written)
    for name, value in defaults.items():
        if name not in merged:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = {**value, **merged[name]}
    return merged


def _bound(
    doc: Document, written: dict[str, JSON], params: Mapping[str, JSON], inputs: Mapping[str, str]
) -> dict[str, JSON]:
    """`written` with the values of this run put where the defaults stood."""
    for what, given in (("params", params), ("inputs", inputs)):
        if text := document.misnamed(given):
            raise doc.fail((what,), text)
        declared = dict(written.get(what, {}))
        for name, value in given.items():
            if name not in declared:
                known = f"; it declares {', '.join(declared)}" if declared else f"; it declares no {what}"
                flag = "--param" if what == "params" else "--input"
                raise doc.fail(
                    (what,), f"{flag} {name}: the job has no such name{did_you_mean(name, declared) or known}"
                )
            old = declared[name]
            if what == "params":
                spec = _param(doc, name, old)
                value = _typed(doc, spec, ("params", name), value)
                declared[name] = {**old, "default": value} if isinstance(old, Mapping) else value
            else:
                if not isinstance(value, (str, Path)) or not str(value):
                    got = one_line(value or None)
                    raise doc.fail((what, name), f"got {got}, expected a path or URI: --input {name}=PATH")
                text = _absolute(str(value), Path())
                declared[name] = {**old, "uri": text} if isinstance(old, Mapping) else text
        if given:
            written = {**written, what: declared}
    return written


def _param(doc: Document, name: str, spec: JSON) -> Param:
    keys = ("params", name)
    if not isinstance(spec, Mapping):
        if spec is None:
            raise doc.fail(keys, "got nothing; give a default, or {type: string} for one that must be given")
        return Param(_type_of(spec), spec)
    param = Param(spec["type"], None, spec.get("minimum"), spec.get("maximum"), (), spec.get("description", ""))
    bounds = [bound for bound in ("minimum", "maximum") if bound in spec]
    if bounds and param.type not in ("integer", "number"):
        raise doc.fail((*keys, bounds[0]), f"only an integer or a number has one, and this is of type {param.type}")
    if len(bounds) == 2 and spec["minimum"] > spec["maximum"]:
        raise doc.fail((*keys, "minimum"), f"got {spec['minimum']}, expected at most the maximum, {spec['maximum']}")
    allowed = (_typed(doc, param, (*keys, "enum", at), one, text=False) for at, one in enumerate(spec.get("enum", ())))
    param = replace(param, enum=tuple(allowed))
    if "default" in spec:
        return replace(param, value=_typed(doc, param, keys, spec["default"], text=False))
    return param


def _type_of(value: JSON) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _typed(doc: Document, param: Param, keys: Keys, value: JSON, text: bool = True) -> JSON:
    """`value` as the parameter's type, read from its text where it is given as one. Raises for one that doesn't fit."""
    try:
        found = _converted(_from_text(value, param.type) if text else value, param.type)
        found = _as_json(found, doc, keys)  # plain data, and its own
    except document.GivenTwice as reason:
        raise doc.fail(keys, f"got {one_line(value)}, in which {reason}") from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        expected = {"integer": "an integer", "boolean": "true or false", "array": "a list, in JSON: [1, 2]"}
        expected |= {"object": 'a mapping, in JSON: {"a": 1}'}
        raise doc.fail(keys, f"got {one_line(value)}, expected {expected.get(param.type, f'a {param.type}')}") from None
    if param.minimum is not None and found < param.minimum:
        raise doc.fail(keys, f"got {one_line(found)}, expected at least {param.minimum}")
    if param.maximum is not None and found > param.maximum:
        raise doc.fail(keys, f"got {one_line(found)}, expected at most {param.maximum}")
    if param.enum and found not in param.enum:
        raise doc.fail(keys, f"got {one_line(found)}, expected {' or '.join(map(text_of, param.enum))}")
    return found


def _from_text(value: JSON, wanted: str) -> JSON:
    """What the text of a value says, where another type is wanted, and the text of a value where a string is."""
    if wanted == "string":
        return text_of(value) if isinstance(value, (bool, int, float)) else value
    if not isinstance(value, str):
        return value
    if wanted in ("integer", "number") and re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)([eE][-+]?[0-9]+)?", value):
        return float(value) if re.search(r"[.eE]", value) else int(value)  # .5, 1. and 012 too, which JSON lacks
    return json.loads(value.lower() if wanted == "boolean" else value, object_pairs_hook=document.once)


def _converted(value: JSON, wanted: str) -> JSON:
    """`value` as the type called `wanted`. Raises ValueError, TypeError or OverflowError for one that doesn't fit."""
    if isinstance(value, bool) != (wanted == "boolean"):
        raise TypeError
    if wanted == "number" and isinstance(value, (int, float)):
        value = float(value)
    elif wanted == "integer" and isinstance(value, float) and abs(value) < 2**53 and value.is_integer():
        value = int(value)
    if not isinstance(value, _PYTHON[wanted]):
        raise TypeError
    if wanted == "number" and not math.isfinite(value):
        raise ValueError
    return value


_PYTHON: Mapping[str, Any] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": (list, tuple), "object": dict,
}  # fmt: skip


def _absolute(uri: str, base: Path) -> str:
    """A URI as it is; a path made absolute, `~` expanded and the links on its way followed."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", uri):
        return uri
    try:
        path = base.absolute() / Path(uri).expanduser()
        # A link's own name is kept, for what is named by it has often another, without the ending.
        return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)
    except (RuntimeError, OSError, ValueError):  # no home folder, a loop of links, a null byte
        return uri  # said where the path is used


class _Reader:
    """One job's fields, each with its type. The document has passed the schema."""

    def __init__(self, doc: Document, data: Mapping[str, JSON]) -> None:
        self.doc, self.data, self.base = doc, data, doc.folder

    def job(self, written: Mapping[str, JSON]) -> Job:
        data = self.data
        kind = KINDS[data["kind"]]
        job = Job(
            kind=kind,
            name=data["name"],
            command=self.parsed(("command",), Command.of),
            written=written,
            document=self.doc,
            description=data.get("description", ""),
            code=Path(_absolute(data["code"], self.base)) if "code" in data else None,
            image=data.get("image", ""),
            python=data.get("python", ""),
            requirements=self.requirements(),
            params={name: _param(self.doc, name, spec) for name, spec in data.get("params", {}).items()},
            inputs={name: self.input(spec) for name, spec in data.get("inputs", {}).items()},
            outputs={name: self.output(kind, spec) for name, spec in data.get("outputs", {}).items()},
            env={name: text_of(value) for name, value in data.get("env", {}).items()},
            secrets=tuple(data.get("secrets", ())),
            resources=self.resources(),
            distribution=Distribution(**data["distribution"]) if "distribution" in data else None,
            timeout=self.parsed(("timeout",), units.seconds),
            queue_timeout=self.parsed(("queue_timeout",), units.seconds),
            retry=data.get("retry", {}),
            labels=data.get("labels", {}),
            tags=tuple(data.get("tags", ())),
            platforms=data.get("platforms", {}),
        )
        self.coherent(job)
        return job

    def parsed(self, keys: tuple[str, ...], read: Any) -> Any:
        value: Any = functools.reduce(lambda data, key: data.get(key, {}), keys[:-1], self.data).get(keys[-1])
        if value is None:
            return None
        try:
            return read(value)
        except ValueError as reason:
            raise self.doc.fail(keys, str(reason)) from None

    def requirements(self) -> Path | tuple[str, ...]:
        given = self.data.get("requirements", ())
        return Path(_absolute(given, self.base)) if isinstance(given, str) else tuple(given)

    def input(self, spec: JSON) -> Input:
        spec = {"uri": spec} if isinstance(spec, str) else spec
        uri = spec.get("uri", "")
        return Input(_absolute(uri, self.base) if uri else "", spec.get("type", "artifact"), spec.get("mode", ""))

    def output(self, kind: Kind, spec: JSON) -> Output:
        spec = {"uri": spec} if isinstance(spec, str) else spec or {}
        uri = spec.get("uri", "")
        return Output(
            spec.get("type", kind.output_type), _absolute(uri, self.base) if uri else "", spec.get("mode", "")
        )

    def resources(self) -> Resources:
        given = self.data.get("resources", {})
        accelerators = given.get("accelerators")
        if isinstance(accelerators, str):
            name, _, count = accelerators.partition(":")
            accelerators = {"name": name, "count": int(count or 1)}
        sizes = {name: self.parsed(("resources", name), units.quantity) for name in ("memory", "disk", "shm")}
        return Resources(
            cpu=self.parsed(("resources", "cpu"), units.cores),
            accelerators=Accelerators(**accelerators) if accelerators else None,
            spot=given.get("spot", False),
            nodes=given.get("nodes", 1),
            **sizes,
        )

    def coherent(self, job: Job) -> None:
        """Raises for what no single field can be blamed for: names that meet, placeholders that name nothing."""
        for index, word in enumerate(job.command.argv):
            self.declared(job, ("command",) if isinstance(self.data["command"], str) else ("command", index), word)
        for name, text in job.env.items():
            self.declared(job, ("env", name), text)
            if name in job.secrets:
                raise self.doc.fail(("env", name), "is a secret too; leave it out of env: or of secrets:")
        for what in ("inputs", "outputs"):
            seen: dict[str, str] = {}
            for name in getattr(job, what):
                spelt = variable(name)
                if spelt in seen:
                    one = what[:-1].upper()
                    text = f"and {seen[spelt]} would both be MLCTL_{one}_{spelt} inside the job; rename one"
                    raise self.doc.fail((what, name), text)
                seen[spelt] = name
        if job.image and (job.python or job.requirements):
            extra = "python" if job.python else "requirements"
            raise self.doc.fail((extra,), "is the image's to bring; leave out image: or this")

    def declared(self, job: Job, keys: Keys, word: str) -> None:
        try:
            found: list[Placeholder] = placeholders([word])
        except ValueError as reason:
            raise self.doc.fail(keys, str(reason)) from None
        for what, name in found:
            names = getattr(job, what)
            if name not in names:
                hint = did_you_mean(name, names) or (
                    f"; it declares {', '.join(names)}" if names else f"; it has no {what}:"
                )
                raise self.doc.fail(keys, f"${{{{{what}.{name}}}}} names nothing that the job declares{hint}")
