"""The job file for a script: YAML as a person would write it, with what is left to that person in comments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlctl.errors import InvalidConfig, did_you_mean
from mlctl.job import KINDS

from .arguments import Argument
from .introspect import Draft
from .project import SCHEMA, slug
from .roles import Role, address, role, secret
from .source import UNKNOWN, FromEnv
from .yaml_text import comment, scalar

__all__ = ["job_yaml"]


@dataclass
class _Parts:
    """The job as it comes together: the words of its command, and YAML for what else it has, by name."""

    command: list[str]
    notes: list[str]
    left_out: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, str]] = field(default_factory=lambda: {"params": {}, "inputs": {}, "outputs": {}})


def job_yaml(draft: Draft, kind: str = "train", folder: str = "jobs") -> str:
    """The text of a job file, to be put into `folder` below the draft's, that runs the script unchanged.

    Every argument whose default can be read is passed, as a parameter, an input or an output; the others keep the script's own
    default, and are listed. Raises InvalidConfig for an unknown `kind`.
    """
    if kind not in KINDS:
        raise InvalidConfig(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    place = draft.folder / folder
    parts = _Parts([*draft.launch], [*draft.notes])
    positional = [argument for argument in draft.arguments if not argument.flag]
    options = [argument for argument in draft.arguments if argument.flag]
    gap = ""  # what stands behind a positional word that is left out would take its place
    for argument in [*positional, *options]:
        part = role(argument, kind)
        why = _why_not(argument, part) or (gap if not argument.flag else "")
        if why:
            _leave_out(parts, draft, argument, why)
            gap = gap or ("" if argument.flag else "stands behind one that is left out")
        else:
            _pass(parts, draft, argument, part, kind, place)
    for read in draft.environment:
        _variable(parts, read)
    return "\n".join(_lines(parts, draft, kind, place)) + "\n"


def _why_not(argument: Argument, part: Role) -> str:
    """Why the command doesn't have it; empty where it has."""
    if argument.obstacle:
        return argument.obstacle
    variable = argument.variable
    if part.what == "params" and variable.startswith("SM_") and not variable.startswith("SM_HP_"):
        return f"its default is {variable}, which SageMaker's layout sets"
    if part.what != "params" or argument.required:
        return ""
    if argument.default == "" and len(argument.flag) == 2:
        return "its default is empty, and no word can say that"
    if argument.default is UNKNOWN:
        return "its default is only known when the script runs"
    return "it has no default" if argument.default is None else ""


def _leave_out(parts: _Parts, draft: Draft, argument: Argument, why: str) -> None:
    """A line of the command, as a comment that can be made one."""
    word = _word(argument.flag, argument.values) if argument.values else argument.flag
    text = "; ".join(part for part in (why, argument.help) if part)
    name = "" if argument.flag else f"{argument.name}: "
    parts.left_out.append(f"# {comment(f'- {word}'):<24} # {name}{comment(text)}")
    if argument.required:
        where = f"{draft.script.name}:{argument.line}"
        parts.notes.append(f"{where}: {argument.flag or argument.name} has to be given, and isn't: {why}")


def _pass(parts: _Parts, draft: Draft, argument: Argument, part: Role, kind: str, place: Path) -> None:
    table = parts.tables[part.what]
    name = part.name if argument.variable.startswith("SM_") else _unused(table, part)
    value = f"${{{{{part.what}.{name}}}}}" + (f"/{part.file}" if part.file else "")
    parts.command.append(_word(argument.flag, value))
    if part.what == "params":
        table[name] = _param(argument)
        if secret(argument):
            text = "looks like a secret, and parameters are recorded; have the script read a variable, and name that under secrets:"
            parts.notes.append(f"{argument.flag or name} {text}")
    elif part.what == "inputs":
        table[name] = _input(argument, part, name, draft, place)
    else:
        table[name] = "{type: model}" if part.type else "{type: artifact}" if kind == "train" else "{}"


def _word(flag: str, value: str) -> str:
    """Flag and value as one word: of two, a parser takes the second for another flag where it starts with '-'."""
    return f"{flag}={value}" if len(flag) > 2 else f"{flag}{value}"


def _unused(table: dict[str, str], part: Role) -> str:
    """The part's name, numbered where it is taken; for a path in any case, as it is one in the job's environment."""
    taken = {name if part.what == "params" else name.lower() for name in table}
    number, unused = 1, part.name
    while (unused if part.what == "params" else unused.lower()) in taken:
        number += 1
        unused = f"{part.name[:60]}_{number}"
    return unused


def _param(argument: Argument) -> str:
    default = argument.default
    given = default is not None and default is not UNKNOWN
    fields = {"type": argument.type}
    if given:
        fields["default"] = scalar(default, flow=True)
    if argument.minimum is not None:
        fields["minimum"] = scalar(argument.minimum, flow=True)
    if argument.maximum is not None:
        fields["maximum"] = scalar(argument.maximum, flow=True)
    if argument.choices:
        fields["enum"] = f"[{', '.join(scalar(choice, flow=True) for choice in argument.choices)}]"
    if argument.help:
        fields["description"] = scalar(argument.help, flow=True)
    types = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if len(fields) == 2 and types.get(type(default)) == argument.type:
        return scalar(default)
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def _input(argument: Argument, part: Role, name: str, draft: Draft, place: Path) -> str:
    found = address(argument, draft.folder, draft.script)
    if found:
        uri = scalar(found if "://" in found else _relative(Path(found), place), flow=True)
        return f"{{uri: {uri}, type: model}}" if part.type else uri
    more = ""
    if argument.variable.startswith("SM_CHANNEL_"):
        more = _CHANNEL
    elif argument.default is None and not argument.required:
        more = "; the script can do without: remove it here and in the command"
    elif isinstance(argument.default, str) and argument.default:
        more = f"; the script's own default, {argument.default!r}, isn't here"
    return _no_uri(name, more, "{type: model}" if part.type else "{}")


_CHANNEL = ", a folder, as SageMaker's channels are"


def _no_uri(name: str, more: str = "", fields: str = "{}") -> str:
    return f"{fields}    # no uri: each run is given one, --input {name}=ADDRESS{comment(more)}"


def _variable(parts: _Parts, read: FromEnv) -> None:
    """What a variable of SageMaker's, read outside the arguments, says about the job."""
    channel = re.fullmatch(r"SM_CHANNEL_([A-Za-z]\w*)", read.name)
    hyperparameter = re.fullmatch(r"SM_HP_([A-Za-z]\w*)", read.name)
    if channel:
        name = channel[1].lower()
        parts.tables["inputs"].setdefault(name, _no_uri(name, _CHANNEL))
    elif hyperparameter:
        value = read.fallback if isinstance(read.fallback, (str, int, float)) else None
        parts.tables["params"].setdefault(
            hyperparameter[1].lower(), "{type: string}" if value is None else scalar(value)
        )
    elif read.name == "SM_MODEL_DIR":
        parts.tables["outputs"].setdefault("model", "{type: model}")
    elif read.name in ("SM_OUTPUT_DATA_DIR", "SM_OUTPUT_DIR"):
        parts.tables["outputs"].setdefault("output", "{type: artifact}")
    elif read.name in ("SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS"):
        parts.notes.append(
            f"{read.name} holds the job's parameters: declare under params: what the script looks for in it"
        )


def _lines(parts: _Parts, draft: Draft, kind: str, place: Path) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={_relative(draft.folder / SCHEMA, place)}"
    yield f"# Runs {comment(draft.script.name)} as it is. `mlctl init` has read the script and not run it: look through this once."
    if parts.notes:
        yield "# What it couldn't settle:"
        yield from (f"#   {comment(note)}" for note in dict.fromkeys(parts.notes))
    yield f"kind: {kind}"
    yield f"name: {slug(f'{draft.folder.name}-{draft.script.stem}') or kind}"
    if draft.description:
        yield f"description: {scalar(draft.description)}"
    yield f"code: {_relative(draft.folder, place)}"
    if draft.needs.file or draft.needs.proposed:
        yield f"requirements: {scalar(_relative(draft.needs.file or draft.folder / 'requirements.txt', place))}"
    yield "command:"
    yield from (f"  - {scalar(word)}" for word in parts.command)
    if parts.left_out:
        yield "  # Left out, so that the script's own defaults hold; to pass one, remove its first '#':"
        yield from (f"  {line}" for line in parts.left_out)
    for what, table in parts.tables.items():
        if table:
            yield f"{what}:"
            yield from (f"  {scalar(name)}: {text}" for name, text in table.items())
    if draft.python_path:
        yield f"env: {{PYTHONPATH: {scalar(':'.join(draft.python_path), flow=True)}}}    # where the script finds its own modules"
    if draft.sagemaker:
        yield "platforms:"
        yield "  local: {layout: sagemaker}    # sets the SM_* variables that the script reads"


def _relative(path: Path, place: Path) -> str:
    return Path(os.path.relpath(path, place)).as_posix()
