"""How argparse's `add_argument` calls say what a command line takes, wherever they stand and whatever the parser is called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .arguments import Argument, help_text, settled, subcommands
from .source import UNKNOWN, Source

__all__ = ["argparse_arguments"]


def argparse_arguments(source: Source) -> Iterator[Argument | str]:
    """Each argument that the script adds to a parser; a string is what can't be understood."""
    changed = _changed(source)
    for node, function in source.calls("add_argument"):
        if _origin(source, function.value, node) in ("add_parser", "Options"):
            continue  # a subcommand's, which is named below, once; or a browser's
        names = _names(source, node)
        if names is None:
            yield f"{source.at(node)}: an argument whose name is only known when the script runs"
        elif names:
            yield _argument(_Call(source, node, function.value), names, changed)
    commands = [node for node, _ in source.calls("add_parser")]
    if commands:
        yield subcommands(source, commands[0], [source.value(node.args[0]) for node in commands if node.args])
    for node, _ in source.calls("add_mutually_exclusive_group"):
        if any(word.arg == "required" and source.value(word.value) is True for word in node.keywords):
            yield f"{source.at(node)}: one argument of this group has to be given: add it to the command"


@dataclass(frozen=True)
class _Call:
    """One `add_argument` of the parser or group `receiver`."""

    source: Source
    node: ast.Call
    receiver: ast.expr

    def word(self, name: str) -> ast.expr | None:
        """The expression of a keyword."""
        return next((word.value for word in self.node.keywords if word.arg == name), None)

    def literal(self, name: str) -> Any:
        """The value of a keyword; None where it isn't given."""
        word = self.word(name)
        return None if word is None else self.source.value(word)


def _names(source: Source, node: ast.Call) -> list[str] | None:
    """The names an argument is given; None where one isn't a literal."""
    names: list[Any] = []
    for item in node.args:
        value = source.value(item.value if isinstance(item, ast.Starred) else item)
        names += value if isinstance(item, ast.Starred) and isinstance(value, list) else [value]
    return names if all(isinstance(name, str) and name for name in names) else None


def _changed(source: Source) -> dict[str, Any]:
    """The defaults that `set_defaults` puts over those of `add_argument`; under `**` where it can't be seen which."""
    defaults: dict[str, Any] = {}
    for node, function in source.calls("set_defaults"):
        if _origin(source, function.value, node) != "add_parser":
            sure = not _conditional(source, node)
            defaults |= {word.arg or "**": source.value(word.value) if sure else UNKNOWN for word in node.keywords}
    return defaults


def _argument(call: _Call, names: list[str], changed: dict[str, Any]) -> Argument:
    short = "" if re.match(r"\w", names[0]) else names[0]
    flag = next((name for name in names if name.startswith("--")), short)
    dest = call.literal("dest")
    name = dest if isinstance(dest, str) and flag else (flag or names[0]).lstrip("-")
    kind, path = _type(call.source, call.word("type"))
    argument = Argument(
        flag=flag,
        name=name,
        line=call.node.lineno,
        required=call.literal("required") is True or (not flag and call.literal("nargs") not in ("?", "*")),
        help=help_text(call.literal("help")),
        variable=call.source.variable(call.word("default")),
        path=path,
    )
    obstacle, values = _obstacle(call, flag)
    if obstacle:
        return replace(argument, obstacle=obstacle, values=values)
    if kind == "bool":
        return replace(argument, obstacle="type=bool takes any text for true, 'false' too")
    default = UNKNOWN if "**" in changed else changed.get(name.replace("-", "_"), call.literal("default"))
    made = settled(argument, kind, default, call.literal("choices"))
    if made.obstacle and call.word("type") is None:
        made = replace(made, obstacle=f"its default, {default!r}, has no type=: a command line would make it text")
    return made


_OPENED = {"r": "read", "w": "write", "a": "write", "x": "write"}
_KINDS = {"int": "integer", "float": "number", "bool": "bool", "str": "string"}
_PATHS = ("pathlib.Path", "os.path.abspath", "os.path.expanduser", "os.path.realpath", "os.path.normpath")


def _type(source: Source, node: ast.expr | None) -> tuple[str, str]:
    """The kind of value that `type=` makes of text, and `read` or `write` where it opens a file."""
    if node is None:
        return "string", ""
    if isinstance(node, ast.Call) and source.called(node.func) == "argparse.FileType":
        mode = source.value(node.args[0]) if node.args else "r"
        return "string", _OPENED.get(str(mode)[:1], "")
    name = source.called(node)
    if name in _KINDS or name in _PATHS:
        return _KINDS.get(name, "string"), ""
    return "boolean" if name.endswith("strtobool") or _tells_truth(source, node) else "other", ""


def _tells_truth(source: Source, node: ast.expr) -> bool:
    """Whether a lambda, or a function of the script's, is one that reads the texts "true" and "false"."""
    body: ast.AST | None = node if isinstance(node, ast.Lambda) else None
    if isinstance(node, ast.Name):
        body = next((each for each in source.functions if each.name == node.id), None)
    nodes = list(ast.walk(body)) if body else []
    texts = {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    strict = any(isinstance(each, ast.Raise) for each in nodes)
    known = any(source.called(each).endswith("strtobool") for each in nodes)
    return known or ("true" in texts and ("false" in texts or not strict))


def _obstacle(call: _Call, flag: str) -> tuple[str, str]:
    """Why the command can't have this argument, and the words that follow it where a person adds it."""
    action = "store" if call.word("action") is None else call.literal("action")
    if flag and flag[0] != "-":
        return "it doesn't start with '-'", "VALUE"
    if action in ("store_true", "store_false", "store_const", "append_const", "count", "help", "version"):
        return "a flag", ""
    if call.source.called(call.word("action")).endswith("BooleanOptionalAction"):
        return f"a flag, or --no-{flag.lstrip('-')}", ""
    if action in ("append", "extend"):
        return "may be given several times", "VALUE"
    if action != "store":
        return "its action is the script's own", "VALUE"
    if any(word.arg is None for word in call.node.keywords):
        return "part of it (**) is only known when the script runs", "VALUE"
    if call.literal("nargs") not in (None, "?"):
        return "takes several values, each in a line of its own behind it", "" if flag else "VALUE"
    if _origin(call.source, call.receiver, call.node) == "add_mutually_exclusive_group":
        return "excludes others of its group", "VALUE"
    if _conditional(call.source, call.node):
        return "added under a condition or in a loop", "VALUE"
    return "", "VALUE"


def _conditional(source: Source, node: ast.AST) -> bool:
    """Whether `node` may not run, or run more than once, each time that its function does."""
    for outer in source.ancestors(node):
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return False
        if isinstance(outer, (ast.For, ast.While, ast.ExceptHandler)):
            return True
        if isinstance(outer, ast.If) and not any(source.called(each) == "__name__" for each in ast.walk(outer.test)):
            return True
    return False


# Where a parser comes from


def _origin(source: Source, receiver: ast.expr, use: ast.AST, depth: int = 8) -> str:
    """Which method made a parser or group, where it matters; `Options` for a browser's; empty for an ordinary parser."""
    if depth == 0:
        return ""
    if isinstance(receiver, ast.Call):
        if source.called(receiver.func).endswith("Options"):
            return "Options"
        method = receiver.func.attr if isinstance(receiver.func, ast.Attribute) else ""
        if method == "add_argument_group" and isinstance(receiver.func, ast.Attribute):
            return _origin(source, receiver.func.value, use, depth - 1)
        return method if method in ("add_parser", "add_mutually_exclusive_group") else ""
    if not isinstance(receiver, (ast.Name, ast.Attribute)):
        return ""
    made = _last_assigned(source, receiver, use)
    origins = (_origin(source, one, one, depth - 1) for one in ([made] if made else _given(source, receiver, use)))
    return next(filter(None, origins), "")


def _last_assigned(source: Source, name: ast.Name | ast.Attribute, use: ast.AST) -> ast.expr | None:
    """The expression that a name, or an attribute, was last bound to before `use`, in the same function."""
    inside, line = source.function(use), getattr(use, "lineno", 0)
    before = [
        node.value
        for node in source.assignments.get(ast.unparse(name), [])
        if node.lineno <= line and node.value is not use
        if isinstance(name, ast.Attribute) or source.function(node) is inside
    ]
    return before[-1] if before else None


def _given(source: Source, name: ast.Name | ast.Attribute, use: ast.AST) -> list[ast.expr]:
    """What the function around `use` is called with for `name`, where that is a parameter of it."""
    function = source.function(use)
    names = [argument.arg for argument in function.args.args] if function else []
    if function is None or not isinstance(name, ast.Name) or name.id not in names:
        return []
    given = []
    for call in source.callers.get(function.name, []):
        words = [word.value for word in call.keywords if word.arg == name.id]
        given += words or call.args[names.index(name.id) :][:1]
    return given
