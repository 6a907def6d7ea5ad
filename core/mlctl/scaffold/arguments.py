"""One shape for what a script's command line takes, whichever library reads it.

An argument left out keeps the script's own default, which is always right; one that is passed has to give the very value that
the script would have had. So whatever is in doubt has an `obstacle`, and stays out of the command.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .source import UNKNOWN, FromEnv, Source

__all__ = ["Argument", "help_text", "sentence", "settled", "subcommands"]


@dataclass(frozen=True)
class Argument:
    """One option or positional word. `flag` is empty where it goes by position."""

    flag: str
    name: str
    line: int
    type: str = "string"
    """Of the job's parameter: string, integer, number or boolean."""
    default: Any = None
    """None where it has none, UNKNOWN where only the running script knows it."""
    required: bool = False
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    help: str = ""
    variable: str = ""
    """The environment variable that its default is read from."""
    path: str = ""
    """`read` or `write` where its type opens a file."""
    obstacle: str = ""
    """Why the command can't have it, whatever it is."""
    values: str = "VALUE"
    """What follows it where a person adds it: empty for a flag."""


def settled(argument: Argument, kind: str, default: Any, choices: Any = None) -> Argument:
    """`argument` with the type, default and choices of a parameter, or with the obstacle to passing it.

    `kind` is what its type makes of text: string, integer, number, boolean, or `other` for a function of the script's own.
    """
    while isinstance(default, FromEnv):
        default = default.fallback
    fitted = _fitted(kind, default)
    if fitted is UNKNOWN and default is not UNKNOWN:
        argument = replace(argument, obstacle=f"its default, {default!r}, is not what its type makes of text")
    listed = tuple(choices) if isinstance(choices, list) else ()
    told = fitted in (None, UNKNOWN) or fitted in listed
    if listed and told and all(_fitted(kind, item) == item for item in listed):
        argument = replace(argument, choices=listed)
    return replace(argument, type="string" if kind == "other" else kind, default=fitted)


def _fitted(kind: str, value: Any) -> Any:
    """`value` as a parameter of the job; UNKNOWN where its text on a command line would become something else."""
    if value is None or value is UNKNOWN:
        return value
    try:
        if kind == "integer":
            return int(value) if isinstance(value, str) or type(value) is int else UNKNOWN
        if kind == "number" and not isinstance(value, bool):
            number = float(value) if isinstance(value, str) else value
            return number if math.isfinite(number) else UNKNOWN
    except (TypeError, ValueError):
        return UNKNOWN
    if kind == "boolean":
        text = str(value).lower()
        return text == "true" if text in ("true", "false") else UNKNOWN
    return value if isinstance(value, str) else UNKNOWN


def subcommands(source: Source, node: ast.AST, names: Iterable[Any]) -> str:
    """The note about a script that does several things."""
    shown = ", ".join(name for name in names if isinstance(name, str))
    return f"{source.at(node)}: subcommands ({shown}): add one, and its own arguments, to the end of the command"


def help_text(text: Any) -> str:
    """A help text as one line, argparse's `(default: %(default)s)` left out."""
    if not isinstance(text, str) or text == "==SUPPRESS==":
        return ""
    text = re.sub(r"[\s,;]*[(\[]?\bdefaults?\b( is|:|=)?\s*%\(default\)[a-z][)\]]?", "", text, flags=re.IGNORECASE)
    return sentence(re.sub(r"%\((\w+)\)[a-z]", r"\1", text).replace("%%", "%"))


def sentence(text: str, limit: int = 200) -> str:
    """One line of at most `limit` characters."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
