"""What a script's command line takes: one shape for argparse, click and typer, and how argparse's calls are read.

An argument left out keeps the script's own default, which is always right; one that is passed has to give the very value that
the script would have had. So whatever is in doubt has an `obstacle`, and stays out of the command.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .source import UNKNOWN, FromEnv, Source

__all__ = ["Argument", "argparse_arguments", "help_text", "settled", "subcommands"]


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


@dataclass(frozen=True)
class _Call:
    """One `add_argument`, its keywords by name."""

    source: Source
    node: ast.Call
    receiver: ast.expr
    words: dict[str, ast.expr]

    def literal(self, word: str) -> Any:
        return self.source.value(self.words[word]) if word in self.words else None


def argparse_arguments(source: Source) -> Iterator[Argument | str]:
    """Each argument that the script adds to a parser, whatever the parser is called; a string is what can't be understood."""
    changed = _changed(source)
    for node, function in source.calls("add_argument"):
        call = _Call(source, node, function.value, {word.arg: word.value for word in node.keywords if word.arg})
        if _origin(source, function.value, node) in ("add_parser", "Options"):
            continue  # a subcommand's, which is named once, below; or a browser's
        names = _names(source, node)
        if names is None:
            yield f"{source.at(node)}: an argument whose name is only known when the script runs"
        elif names:
            yield _argument(call, names, changed)
    commands = [node for node, _ in source.calls("add_parser")]
    if commands:
        yield subcommands(source, commands[0], [source.value(node.args[0]) for node in commands if node.args])
    for node, _ in source.calls("add_mutually_exclusive_group"):
        if any(word.arg == "required" and source.value(word.value) is True for word in node.keywords):
            yield f"{source.at(node)}: one argument of this group has to be given: add it to the command"


def subcommands(source: Source, node: ast.AST, names: Iterable[Any]) -> str:
    """The note about what can't be understood in a script that does several things."""
    shown = ", ".join(name for name in names if isinstance(name, str))
    return f"{source.at(node)}: subcommands ({shown}): add one, and its own arguments, to the end of the command"


def _names(source: Source, node: ast.Call) -> list[str] | None:
    """The names an argument is given; None where one isn't a literal."""
    names: list[Any] = []
    for item in node.args:
        value = source.value(item.value if isinstance(item, ast.Starred) else item)
        names += value if isinstance(item, ast.Starred) and isinstance(value, list) else [value]
    return names if all(isinstance(name, str) and name for name in names) else None


def _changed(source: Source) -> dict[str, Any]:
    """The defaults that `set_defaults` puts over those of `add_argument`."""
    defaults: dict[str, Any] = {}
    for node, function in source.calls("set_defaults"):
        if _origin(source, function.value, node) != "add_parser":
            sure = not _conditional(source, node)
            defaults |= {word.arg or "**": source.value(word.value) if sure else UNKNOWN for word in node.keywords}
    return defaults


def _argument(call: _Call, names: list[str], changed: dict[str, Any]) -> Argument:
    flag = next((name for name in names if name.startswith("--")), "" if re.match(r"\w", names[0]) else names[0])
    dest = call.literal("dest")
    name = dest if isinstance(dest, str) and flag else (flag or names[0]).lstrip("-")
    kind, path = _type(call.source, call.words.get("type"))
    argument = Argument(
        flag=flag,
        name=name,
        line=call.node.lineno,
        required=call.literal("required") is True or (not flag and call.literal("nargs") not in ("?", "*")),
        help=help_text(call.literal("help")),
        path=path,
    )
    if "default" in call.words:
        argument = replace(argument, variable=call.source.variable(call.words["default"]))
    obstacle, values = _obstacle(call, flag)
    if obstacle:
        return replace(argument, obstacle=obstacle, values=values)
    default = UNKNOWN if "**" in changed else changed.get(name.replace("-", "_"), call.literal("default"))
    return settled(argument, kind, default, call.literal("choices"), untyped="type" not in call.words)


def settled(argument: Argument, kind: str, default: Any, choices: Any, untyped: bool = False) -> Argument:
    """`argument` with its type, default and choices, where passing the default gives what the script would have had."""
    while isinstance(default, FromEnv):
        default = default.fallback
    if kind == "bool":
        return replace(argument, obstacle="type=bool takes any text for true, 'false' too")
    fitted = _fitted(kind, default)
    if default is not None and default is not UNKNOWN and fitted is UNKNOWN:
        why = "has no type=, and a command line would make it text" if untyped else "is not what its type makes of text"
        argument = replace(argument, obstacle=f"its default, {default!r}, {why}")
    listed = tuple(choices) if isinstance(choices, list) else ()
    if (
        listed
        and (fitted in (None, UNKNOWN) or fitted in listed)
        and all(_fitted(kind, item) == item for item in listed)
    ):
        argument = replace(argument, choices=listed)
    return replace(argument, type=kind if kind in ("integer", "number", "boolean") else "string", default=fitted)


def _fitted(kind: str, value: Any) -> Any:
    """`value` as a parameter of the job; UNKNOWN where its text on a command line would become something else."""
    if value is None or value is UNKNOWN:
        return value
    try:
        if kind == "integer":
            return int(value) if isinstance(value, str) or type(value) is int else UNKNOWN
        if kind == "number" and not isinstance(value, bool):
            number = value if isinstance(value, (int, float)) else float(value)
            return number if math.isfinite(number) else UNKNOWN
    except (TypeError, ValueError):
        return UNKNOWN
    if kind == "boolean":
        text = str(value).lower()
        return text == "true" if text in ("true", "false") else UNKNOWN
    return value if isinstance(value, str) else UNKNOWN


_OPENED = {"r": "read", "w": "write", "a": "write", "x": "write"}
_PATHS = ("pathlib.Path", "os.path.abspath", "os.path.expanduser", "os.path.realpath", "os.path.normpath")


def _type(source: Source, node: ast.expr | None) -> tuple[str, str]:
    """The kind of value that `type=` makes of text, and `read` or `write` where it opens a file."""
    if isinstance(node, ast.Call) and source.called(node.func) == "argparse.FileType":
        mode = source.value(node.args[0]) if node.args else "r"
        return "string", _OPENED.get(str(mode)[:1], "")
    name = source.called(node)
    if node is None or name == "str" or name in _PATHS:
        return "string", ""
    kinds = {"int": "integer", "float": "number", "bool": "bool", "distutils.util.strtobool": "boolean"}
    return kinds.get(name) or ("boolean" if _truth(source, node) else "other"), ""


def _truth(source: Source, node: ast.expr) -> bool:
    """Whether a function, or a lambda, is one that reads the texts "true" and "false"."""
    body: ast.AST | None = node if isinstance(node, ast.Lambda) else None
    if isinstance(node, ast.Name):
        body = next(
            (each for each in ast.walk(source.tree) if isinstance(each, ast.FunctionDef) and each.name == node.id), None
        )
    nodes = list(ast.walk(body)) if body else []
    texts = {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    strict = any(isinstance(each, ast.Raise) for each in nodes)
    known = any(source.called(each).endswith("strtobool") for each in nodes)
    return known or ("true" in texts and ("false" in texts or not strict))


def _obstacle(call: _Call, flag: str) -> tuple[str, str]:
    """Why the command can't have this argument, and the words that follow it where a person adds it."""
    action = call.literal("action") if "action" in call.words else "store"
    if flag and flag[0] != "-":
        return "it doesn't start with '-'", "VALUE"
    if action in ("store_true", "store_false", "store_const", "append_const", "count", "help", "version"):
        return "a flag", ""
    if call.source.called(call.words.get("action")).endswith("BooleanOptionalAction"):
        return f"a flag, or --no-{flag.lstrip('-')}", ""
    if action in ("append", "extend"):
        return "may be given several times", "VALUE"
    if action != "store":
        return "its action is the script's own", "VALUE"
    if any(word.arg is None for word in call.node.keywords):
        return "part of it (**) is only known when the script runs", "VALUE"
    nargs = call.literal("nargs")
    if nargs not in (None, "?"):
        return "takes several values, each in a line of its own behind it", ""
    origin = _origin(call.source, call.receiver, call.node)
    if origin == "add_mutually_exclusive_group":
        return "excludes others of its group", "VALUE"
    if _conditional(call.source, call.node):
        return "added under a condition or in a loop", "VALUE"
    return "", "VALUE"


def _conditional(source: Source, node: ast.AST) -> bool:
    for outer in source.ancestors(node):
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return False
        main = isinstance(outer, ast.If) and "__name__" in [
            n.id for n in ast.walk(outer.test) if isinstance(n, ast.Name)
        ]
        if isinstance(outer, (ast.If, ast.For, ast.While, ast.ExceptHandler)) and not main:
            return True
    return False


_MAKERS = ("add_parser", "add_mutually_exclusive_group")


def _origin(source: Source, receiver: ast.expr, use: ast.AST, depth: int = 8) -> str:
    """Which method made a parser or group, of those that matter here; `Options` for a browser's; empty for an ordinary parser."""
    if depth == 0:
        return ""
    if isinstance(receiver, ast.Call):
        if source.called(receiver.func).endswith("Options"):
            return "Options"
        method = receiver.func.attr if isinstance(receiver.func, ast.Attribute) else ""
        if method == "add_argument_group" and isinstance(receiver.func, ast.Attribute):
            return _origin(source, receiver.func.value, use, depth - 1)
        return method if method in _MAKERS else ""
    if not isinstance(receiver, (ast.Name, ast.Attribute)):
        return ""
    made = _last_assigned(source, receiver, use)
    origins = (_origin(source, one, one, depth - 1) for one in ([made] if made else _given(source, receiver, use)))
    return next(filter(None, origins), "")


def _last_assigned(source: Source, name: ast.Name | ast.Attribute, use: ast.AST) -> ast.expr | None:
    """The expression that a name, or an attribute, was last bound to before `use`, in the same function."""
    shown, inside, found = ast.dump(_loaded(name)), source.function(use), None
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign) and node.lineno <= getattr(use, "lineno", 0) and node.value is not use:
            same = isinstance(name, ast.Attribute) or source.function(node) is inside
            if same and any(ast.dump(_loaded(target)) == shown for target in node.targets):
                found = node.value if found is None or node.lineno >= found.lineno else found
    return found


def _loaded(node: ast.expr) -> ast.expr:
    """`node` as it is read rather than bound, so that both look the same."""
    if isinstance(node, ast.Name):
        return ast.Name(node.id, ast.Load())
    if isinstance(node, ast.Attribute):
        return ast.Attribute(_loaded(node.value), node.attr, ast.Load())
    return node


def _given(source: Source, name: ast.Name | ast.Attribute, use: ast.AST) -> list[ast.expr]:
    """What the function around `use` is called with for `name`, where that is a parameter of it."""
    function = source.function(use)
    names = [argument.arg for argument in function.args.args] if function else []
    if function is None or not isinstance(name, ast.Name) or name.id not in names:
        return []
    given = []
    for call in ast.walk(source.tree):
        if isinstance(call, ast.Call) and source.called(call.func) == function.name:
            words = [word.value for word in call.keywords if word.arg == name.id]
            given += words or call.args[names.index(name.id) :][:1]
    return given


def help_text(text: Any, limit: int = 200) -> str:
    """A help text as one line, argparse's `(default: %(default)s)` left out."""
    if not isinstance(text, str) or text == "==SUPPRESS==":
        return ""
    text = re.sub(r"[\s,;]*[(\[]?\bdefaults?\b( is|:|=)?\s*%\(default\)[a-z][)\]]?", "", text, flags=re.IGNORECASE)
    text = " ".join(re.sub(r"%\((\w+)\)[a-z]", r"\1", text).replace("%%", "%").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
