"""How click's decorators say what a command line takes. click converts a default as it does text, so passing it changes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .arguments import Argument, help_text, settled, subcommands
from .source import FromEnv, Function, Source

__all__ = ["click_arguments"]

_KINDS = {
    "int": "integer", "click.INT": "integer", "float": "number", "click.FLOAT": "number",
    "bool": "boolean", "click.BOOL": "boolean",
}  # fmt: skip
_SECRET = "a secret, which has no place in a command: give it an envvar=, and name that under secrets:"  # noqa: S105


def click_arguments(source: Source) -> Iterator[Argument | str]:
    """Each option and argument of the script's one command; a string is what can't be understood."""
    if not any(name.partition(".")[0] == "click" for name in source.imported.values()):
        return
    groups = [
        one for one in source.functions if any(_named(source, each) == "click.group" for each in one.decorator_list)
    ]
    commands = [one for one in source.functions if one not in groups and _is_command(source, one)]
    if groups or len(commands) > 1:
        yield subcommands(source, (groups or commands)[0], [one.name for one in commands])
        commands = groups[:1]
    for command in commands:
        for call in _parameters(source, command):
            yield _argument(source, call)


def _is_command(source: Source, function: Function) -> bool:
    """Whether a decorator makes it one: `@click.command()`, `@cli.command()`, or an option of its own."""
    named = any(_named(source, each).endswith(".command") for each in function.decorator_list)
    return named or next(_parameters(source, function), None) is not None


def _named(source: Source, decorator: ast.expr) -> str:
    return source.called(decorator.func if isinstance(decorator, ast.Call) else decorator)


def _parameters(source: Source, function: Function) -> Iterator[ast.Call]:
    """The `click.option(...)` and `click.argument(...)` above a function, those kept in a name too."""
    for decorator in function.decorator_list:
        call = source.assigned.get(decorator.id) if isinstance(decorator, ast.Name) else decorator
        if isinstance(call, ast.Call) and source.called(call.func) in ("click.option", "click.argument"):
            yield call


def _argument(source: Source, call: ast.Call) -> Argument | str:
    words = {word.arg: word.value for word in call.keywords if word.arg}
    literal = {name: source.value(value) for name, value in words.items()}
    names = [source.value(item) for item in call.args]
    option = source.called(call.func) == "click.option"
    flags = [name for name in names if isinstance(name, str) and name.startswith("-")]
    if not all(isinstance(name, str) and name for name in names) or not (flags if option else names):
        return f"{source.at(call)}: an argument whose name is only known when the script runs"
    flag, _, off = max(flags, key=lambda name: name.startswith("--"), default="").partition("/")
    flag, off = flag.strip(), off.strip()
    default, nargs = literal.get("default"), literal.get("nargs", 1)
    asked = literal.get("prompt") not in (None, False)  # on a terminal, which no job has
    required = literal.get("required", not option and default is None and nargs != -1) is True or (
        asked and default is None
    )
    argument = Argument(
        flag=flag,
        name=next((name for name in names if name not in flags), flag.lstrip("-")),
        line=call.lineno,
        required=required,
        help=help_text(literal.get("help")),
        variable=source.variable(words.get("default")),
    )
    if off or literal.get("is_flag") is True or "flag_value" in words or literal.get("count") is True:
        return replace(argument, obstacle=f"a flag, or {off}" if off else "a flag", values="")
    if literal.get("hide_input") is True:
        return replace(argument, obstacle=_SECRET, required=required or asked)
    if literal.get("multiple") is True:
        return replace(argument, obstacle="may be given several times")
    if nargs != 1 or isinstance(words.get("type"), ast.Tuple):
        text = "takes several values, each in a line of its own behind it"
        return replace(argument, obstacle=text, values="" if option else "VALUE")
    if any(word.arg is None for word in call.keywords):
        return replace(argument, obstacle="part of it (**) is only known when the script runs")
    return _typed(source, argument, words.get("type"), default)


def _typed(source: Source, argument: Argument, node: ast.expr | None, default: Any) -> Argument:
    while isinstance(default, FromEnv):
        default = default.fallback
    if node is None:
        kind = {int: "integer", float: "number", bool: "boolean"}.get(type(default), "string")
        return settled(argument, kind, default)
    name, given = _named(source, node), node.args if isinstance(node, ast.Call) else []
    if name == "click.Choice":
        return settled(argument, "string", default, source.value(given[0]) if given else None)
    if name == "click.File":
        mode = source.value(given[0]) if given else "r"
        return settled(replace(argument, path="read" if mode == "r" else "write"), "string", default)
    if name in ("click.IntRange", "click.FloatRange") and isinstance(node, ast.Call):
        kind = "integer" if name == "click.IntRange" else "number"
        return settled(_bounded(source, argument, node), kind, default)
    kind = _KINDS.get(name, "string")
    if kind == "string" and isinstance(default, (int, float)):
        default = str(default)
    return settled(argument, kind, default)


def _bounded(source: Source, argument: Argument, call: ast.Call) -> Argument:
    """With the bounds of a range that includes both; clamped or open ones are the script's to check."""
    words: dict[str, Any] = dict(zip(("min", "max"), map(source.value, call.args), strict=False))
    words |= {word.arg: source.value(word.value) for word in call.keywords if word.arg}
    if any(words.get(name) for name in ("min_open", "max_open", "clamp")):
        return argument
    low, high = (words[name] if isinstance(words.get(name), (int, float)) else None for name in ("min", "max"))
    return replace(argument, minimum=low, maximum=high)
