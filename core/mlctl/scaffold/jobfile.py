"""The job file for a script: YAML as a person would write it, with what is left to that person in comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlctl.errors import InvalidConfig, did_you_mean

from .arguments import Argument
from .introspect import Draft
from .project import SCHEMA, slug
from .roles import Role, address, role, secret
from .source import UNKNOWN, FromEnv

__all__ = ["job_yaml"]

_KINDS = ("process", "train", "batch-inference")


@dataclass
class _Job:
    """The job as it comes together: each list holds the lines of its part."""

    command: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def table(self, what: str) -> dict[str, str]:
        return {"params": self.params, "inputs": self.inputs, "outputs": self.outputs}[what]


def job_yaml(draft: Draft, kind: str = "train", folder: str = "jobs") -> str:
    """The text of a job file, to be put into `folder` below the draft's, that runs the script unchanged.

    Every argument with a default that can be read is passed as a parameter, input or output; the others keep the script's own
    default and are listed. Raises InvalidConfig for an unknown `kind`.
    """
    if kind not in _KINDS:
        raise InvalidConfig(f"kind: got {kind!r}, expected one of {', '.join(_KINDS)}{did_you_mean(kind, _KINDS)}")
    place = draft.folder / folder
    job = _Job(notes=list(draft.notes))
    _arguments(job, draft, kind, place)
    for read in draft.environment:
        _variable(job, read)
    return "\n".join(_lines(job, draft, kind, place)) + "\n"


def _arguments(job: _Job, draft: Draft, kind: str, place: Path) -> None:
    """Options in the order of the source, behind the positional words, whose order is what they are told by."""
    positional = [argument for argument in draft.arguments if not argument.flag]
    options = [argument for argument in draft.arguments if argument.flag]
    gap = False
    for argument in [*positional, *options]:
        part = role(argument, kind)
        why = _left_out(argument, part)
        if gap and not argument.flag and not why:
            why = "stands behind one that is left out"
        if why:
            gap = gap or not argument.flag
            text = f"{why}; {argument.help}" if argument.help else why
            shown = " ".join(word for word in (argument.flag, "") if word)
            shown = f"{shown}={argument.values}" if shown.startswith("--") and argument.values else shown
            job.left_out.append(
                f"# - {_comment(shown or argument.values):<24} # {'' if argument.flag else argument.name + ': '}{_comment(text)}"
            )
            if argument.required:
                job.notes.append(
                    f"{draft.script.name}:{argument.line}: {argument.flag or argument.name} must be given, and couldn't be: {why}"
                )
            continue
        name = _unused(job.table(part.what), part.name)
        word = f"${{{{{part.what}.{name}}}}}" + (f"/{part.file}" if part.file else "")
        if not argument.flag:
            job.command.append(word)
        elif argument.flag.startswith("--"):
            job.command.append(f"{argument.flag}={word}")
        else:
            job.command += [argument.flag, word]
        job.table(part.what)[name] = _declared(argument, part, kind, draft, place)
        if part.what == "params" and secret(argument):
            job.notes.append(
                f"{argument.flag or name} looks like a secret, and a parameter is recorded: read it from a variable under secrets:"
            )


def _left_out(argument: Argument, part: Role) -> str:
    """Why the command doesn't have it; empty where it has."""
    if argument.obstacle:
        return argument.obstacle
    if argument.variable.startswith("SM_") and part.what == "params" and not argument.variable.startswith("SM_HP_"):
        return f"its default is {argument.variable}, which SageMaker's layout sets"
    if part.what != "params" or argument.required:
        return ""
    if argument.default is None:
        return "it has no default"
    if argument.default is UNKNOWN:
        return "its default is only known when the script runs"
    return ""


def _variable(job: _Job, read: FromEnv) -> None:
    """What a variable of SageMaker's, read outside the arguments, says about the job."""
    channel = re.fullmatch(r"SM_CHANNEL_(\w+)", read.name)
    hyperparameter = re.fullmatch(r"SM_HP_(\w+)", read.name)
    if channel:
        job.inputs.setdefault(channel[1].lower(), _NO_URI.format(channel[1].lower()))
    elif hyperparameter:
        value = read.fallback if isinstance(read.fallback, (str, int, float)) else None
        job.params.setdefault(hyperparameter[1].lower(), "{type: string}" if value is None else _scalar(value))
    elif read.name == "SM_MODEL_DIR":
        job.outputs.setdefault("model", "{type: model}")
    elif read.name in ("SM_OUTPUT_DATA_DIR", "SM_OUTPUT_DIR"):
        job.outputs.setdefault("output", "{type: artifact}")
    elif read.name in ("SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS"):
        job.notes.append(
            f"{read.name} is read: it holds the job's parameters, so declare under params: what the script looks for"
        )


_NO_URI = "{{}}    # no uri: each run is given one, --input {}=ADDRESS"


def _declared(argument: Argument, part: Role, kind: str, draft: Draft, place: Path) -> str:
    """What stands behind the name under params:, inputs: or outputs:."""
    if part.what == "outputs":
        return "{type: model}" if part.type else "{type: artifact}" if kind == "train" else "{}"
    if part.what == "params":
        return _param(argument)
    uri = address(argument, draft.folder, draft.script)
    shown = _scalar(uri if "://" in uri else Path(os.path.relpath(uri, place)).as_posix(), flow=True) if uri else ""
    if shown:
        return f"{{uri: {shown}, type: model}}" if part.type else shown
    own = (
        f"; the script's own default is {argument.default!r}"
        if isinstance(argument.default, str) and argument.default
        else ""
    )
    own = (
        "; the script can do without: remove it here and in the command"
        if argument.default is None and not argument.required
        else own
    )
    text = _NO_URI.format(part.name) + _comment(own)
    return text.replace("{}", "{type: model}", 1) if part.type else text


def _param(argument: Argument) -> str:
    default = argument.default
    given = default is not None and default is not UNKNOWN
    fields: dict[str, str] = {"type": argument.type}
    if given:
        fields["default"] = _scalar(default, flow=True)
    for bound, value in (("minimum", argument.minimum), ("maximum", argument.maximum)):
        if value is not None:
            fields[bound] = _scalar(value, flow=True)
    if argument.choices:
        fields["enum"] = f"[{', '.join(_scalar(choice, flow=True) for choice in argument.choices)}]"
    if argument.help:
        fields["description"] = _scalar(argument.help, flow=True)
    same = {"string": str, "integer": int, "number": float, "boolean": bool}[argument.type]
    if given and len(fields) == 2 and type(default) is same:
        return _scalar(default)
    return f"{{{', '.join(f'{name}: {value}' for name, value in fields.items())}}}"


def _lines(job: _Job, draft: Draft, kind: str, place: Path) -> Iterator[str]:
    def relative(path: Path) -> str:
        return _scalar(Path(os.path.relpath(path, place)).as_posix())

    yield f"# yaml-language-server: $schema={Path(os.path.relpath(draft.folder / SCHEMA, place)).as_posix()}"
    yield f"# Runs {_comment(draft.script.name)} as it is. `mlctl init` read the script and didn't run it: look through this once."
    if job.notes:
        yield "# What it couldn't settle:"
        yield from (f"#   {_comment(note)}" for note in dict.fromkeys(job.notes))
    yield f"kind: {kind}"
    yield f"name: {slug(f'{draft.folder.name}-{draft.script.stem}') or kind}"
    if draft.description:
        yield f"description: {_scalar(draft.description)}"
    yield f"code: {relative(draft.folder)}"
    if draft.needs.file or draft.needs.proposed:
        yield f"requirements: {relative(draft.needs.file or draft.folder / 'requirements.txt')}"
    yield "command:"
    yield from (f"  - {_scalar(word)}" for word in (*draft.launch, *job.command))
    if job.left_out:
        yield "  # Left out, so that the script's own defaults hold; to pass one, remove its first '#':"
        yield from (f"  {line}" for line in job.left_out)
    for what in ("params", "inputs", "outputs"):
        if job.table(what):
            yield f"{what}:"
            yield from (f"  {_scalar(name)}: {text}" for name, text in job.table(what).items())
    if draft.needs.python_path:
        yield f"env: {{PYTHONPATH: {_scalar(draft.needs.python_path, flow=True)}}}    # where the script finds its own modules"
    if draft.sagemaker:
        yield "platforms:"
        yield "  local: {layout: sagemaker}    # sets the SM_* variables that the script reads"


def _unused(table: dict[str, str], name: str) -> str:
    """`name`, numbered where it is taken; upper and lower case are one, as they are in the job's environment."""
    taken, number, unused = {each.lower() for each in table}, 1, name
    while unused.lower() in taken:
        number += 1
        unused = f"{name[:60]}_{number}"
    return unused


def _comment(text: str) -> str:
    """As a comment can hold it: one line, nothing that a YAML reader refuses."""
    return "".join(char if char.isprintable() else _escape(char) for char in " ".join(text.split()))


_PLAIN = re.compile(r"(--?)?[A-Za-z./$_][A-Za-z0-9./$_{}=@+-]*( [A-Za-z0-9(./$_][A-Za-z0-9./$_{}=@+()',;-]*)*")
_FLOW = re.compile(r"[A-Za-z./_][A-Za-z0-9./_-]*( [A-Za-z0-9]+)*")
_WORDS = {
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "null",
    "~",
    ".inf",
    ".nan",
    "-.inf",
    "+.inf",
}  # of YAML 1.1 or 1.2


def _scalar(value: Any, flow: bool = False) -> str:
    """A value as YAML, the same to readers of 1.1 and of 1.2; `flow` inside {} or []."""
    if isinstance(value, bool) or not isinstance(value, (str, float)):
        return json.dumps(value)
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")  # 1e-05 is a string to YAML 1.1
    number = re.match(r"[-+.]*[0-9]", value)
    if (_FLOW if flow else _PLAIN).fullmatch(value) and value.lower() not in _WORDS and not number:
        return value
    return '"' + "".join(char if char.isprintable() and char not in '"\\' else _escape(char) for char in value) + '"'


def _escape(char: str) -> str:
    """A character as a double-quoted YAML string has it."""
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
