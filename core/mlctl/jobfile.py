"""The job file: a job as people write it, read, checked against the schema, and bound to the values of one run."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import document, units
from .command import Command, Placeholder, placeholders, text_of
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
        doc, written, base = source.document, dict(source.written), Path(source.document.source).parent
    elif isinstance(source, Mapping):
        doc, base = Document("job", _plain(source), error=InvalidJob), Path()
        written = dict(doc.data)
    else:
        doc = document.read(Path(source), InvalidJob)
        written, base = dict(doc.data), Path(source).parent
    document.check(doc, "job", _ELSEWHERE)
    written = _bound(doc, written, params or {}, inputs or {})
    return _Reader(doc, _merged(written, defaults or {}), base).job(written)


def _plain(source: Mapping[str, JSON]) -> dict[str, JSON]:
    try:
        data = json.loads(json.dumps(dict(source), allow_nan=False, default=str))
    except (TypeError, ValueError, RecursionError) as reason:
        raise InvalidJob(f"job: not plain data: {reason}") from None
    if not all(isinstance(key, str) for key in source):
        raise InvalidJob("job: a field's name is a string")
    return dict(data)


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
    param = Param(
        spec["type"],
        None,
        spec.get("minimum"),
        spec.get("maximum"),
        tuple(spec.get("enum", ())),
        spec.get("description", ""),
    )
    if "default" in spec:
        return replace(param, value=_typed(doc, param, keys, spec["default"], text=False))
    return param


def _type_of(value: JSON) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _typed(doc: Document, param: Param, keys: Keys, value: JSON, text: bool = True) -> JSON:
    """`value` as the parameter's type, read from its text where it is given as one. Raises for one that doesn't fit."""
    got = value
    if text and isinstance(value, str) and param.type != "string":
        try:
            value = json.loads(value.lower() if param.type == "boolean" else value, parse_constant=_no_constant)
        except ValueError:
            value = _number(got) if param.type in ("number", "integer") else got
    if param.type == "string" and text and isinstance(value, (bool, int, float)):
        value = text_of(value)
    if param.type == "number" and type(value) is int:
        value = float(value) if isinstance(got, str) or not text else value
    if param.type == "integer" and type(value) is float and value.is_integer():
        value = int(value)
    fits: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    if not isinstance(value, fits[param.type]) or (isinstance(value, bool) and param.type != "boolean"):
        article = "an" if param.type[0] in "aio" else "a"
        raise doc.fail(keys, f"got {one_line(got)}, expected {article} {param.type}")
    if param.minimum is not None and isinstance(value, (int, float)) and value < param.minimum:
        raise doc.fail(keys, f"got {one_line(value)}, expected at least {param.minimum}")
    if param.maximum is not None and isinstance(value, (int, float)) and value > param.maximum:
        raise doc.fail(keys, f"got {one_line(value)}, expected at most {param.maximum}")
    if param.enum and value not in param.enum:
        raise doc.fail(keys, f"got {one_line(value)}, expected {' or '.join(map(text_of, param.enum))}")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _number(text: str) -> JSON:
    """Numbers that people write and JSON doesn't, such as .5 and 1.; the text itself where it is none."""
    return float(text) if re.fullmatch(r"[-+]?(\.\d+|\d+\.?\d*)([eE][-+]?\d+)?", text) else text


def _absolute(uri: str, base: Path) -> str:
    """A URI as it is; a path made absolute, `~` expanded."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", uri):
        return uri
    try:
        return str((base.absolute() / Path(uri).expanduser()).resolve())
    except (
        RuntimeError,
        OSError,
        ValueError,
    ):  # no home folder, a loop of links, a null byte: said where the path is used
        return uri


class _Reader:
    """One job's fields, each with its type. The document has passed the schema."""

    def __init__(self, doc: Document, data: Mapping[str, JSON], base: Path) -> None:
        self.doc, self.data, self.base = doc, data, base

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
                variable = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
                if variable in seen:
                    one = what[:-1].upper()
                    text = f"and {seen[variable]} would both be MLCTL_{one}_{variable} inside the job; rename one"
                    raise self.doc.fail((what, name), text)
                seen[variable] = name
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
