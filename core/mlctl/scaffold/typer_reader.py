"""How the signature of typer's command says what a command line takes: without a default by position, else as an option."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from .arguments import Argument, help_text, settled, subcommands
from .source import UNKNOWN, Source

__all__ = ["typer_arguments"]


def typer_arguments(source: Source) -> Iterator[Argument | str]:
    """The parameters of the script's one command, given to `typer.run` or under `@app.command()`."""
    if not any(name.partition(".")[0] == "typer" for name in source.imported.values()):
        return
    run = {
        source.called(node.args[0])
        for node, function in source.calls("run")
        if node.args and source.called(function) == "typer.run"
    }
    commands = [
        function
        for function in source.functions
        if function.name in run or any(_is_command(each) for each in function.decorator_list)
    ]
    if len(commands) > 1:
        yield subcommands(source, commands[0], [each.name for each in commands])
    elif commands:
        signature = commands[0].args
        given = [*[None] * (len(signature.args) - len(signature.defaults)), *signature.defaults, *signature.kw_defaults]
        for parameter, default in zip([*signature.args, *signature.kwonlyargs], given, strict=True):
            yield _argument(source, parameter, default)


def _is_command(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(function, ast.Attribute) and function.attr == "command"


def _argument(source: Source, parameter: ast.arg, given: ast.expr | None) -> Argument:
    annotation, extra = _annotation(source, parameter.annotation)
    words = list(extra.args) if extra else []
    if _says_more(source, given) and isinstance(given, ast.Call):  # = typer.Option(default, "--name")
        extra, words = given, given.args[1:]
        given = given.args[0] if given.args else None
    if isinstance(given, ast.Constant) and given.value is ...:
        given = None
    names = [name for name in map(source.value, words) if isinstance(name, str) and name.startswith("-")]
    literal = {word.arg: source.value(word.value) for word in extra.keywords} if extra else {}
    positional = source.called(extra.func) == "typer.Argument" if extra else given is None
    long = max(names, key=lambda name: name.startswith("--"), default="--" + parameter.arg.replace("_", "-"))
    flag = "" if positional else long.partition("/")[0]
    low, high = (literal[name] if isinstance(literal.get(name), (int, float)) else None for name in ("min", "max"))
    argument = Argument(
        flag=flag,
        name=parameter.arg,
        line=parameter.lineno,
        required=given is None,
        minimum=low,
        maximum=high,
        help=help_text(literal.get("help")),
    )
    default, kind = source.value(given) if given else None, source.called(annotation)
    if kind == "bool":
        return replace(argument, obstacle="a flag" if names else f"a flag, or --no-{flag.lstrip('-')}", values="")
    if isinstance(annotation, ast.Subscript):
        if source.called(annotation.value).endswith("Literal"):
            return settled(argument, "string", default, source.value(annotation.slice))
        return replace(argument, obstacle="may be given several times")
    if kind in ("int", "float"):
        return settled(argument, "integer" if kind == "int" else "number", default)
    return settled(argument, "string", default if default is None or isinstance(default, str) else UNKNOWN)


def _says_more(source: Source, node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and source.called(node.func) in ("typer.Option", "typer.Argument")


def _annotation(source: Source, node: ast.expr | None) -> tuple[ast.expr | None, ast.Call | None]:
    """A parameter's type without `Annotated`, `Optional` and `| None`, and the typer.Option or Argument that it had."""
    extra: ast.Call | None = None
    if isinstance(node, ast.Subscript) and source.called(node.value).endswith("Annotated"):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        calls = [part for part in parts[1:] if isinstance(part, ast.Call)]
        extra = next((call for call in calls if _says_more(source, call)), None)
        node = parts[0]
    if isinstance(node, ast.Subscript) and source.called(node.value).endswith("Optional"):
        node = node.slice
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and node.right.value is None:
        node = node.left
    return node, extra
