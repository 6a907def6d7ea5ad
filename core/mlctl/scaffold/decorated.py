"""How click's decorators and typer's signatures say what a command line takes. Neither changes a default's type: both convert."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .arguments import Argument, help_text, settled, subcommands
from .source import UNKNOWN, FromEnv, Source

__all__ = ["click_arguments", "typer_arguments"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(source: Source) -> list[_Function]:
    return [node for node in ast.walk(source.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


# click


def click_arguments(source: Source) -> Iterator[Argument | str]:
    """Each option and argument of the script's one command; a string is what can't be understood."""
    commands = [function for function in _functions(source) if list(_parameters(source, function))]
    groups = [one for one in _functions(source) if any(_ends(source, each, "group") for each in one.decorator_list)]
    if groups or len(commands) > 1:
        names = ", ".join(one.name for one in commands if one not in groups) or groups[0].name
        yield f"{source.at((groups or commands)[0])}: subcommands ({names}): add one, and its own arguments, to the end of the command"
        commands = groups[:1]
    for function in commands:
        for call in _parameters(source, function):
            yield _click_argument(source, call)


def _ends(source: Source, decorator: ast.expr, name: str) -> bool:
    called = source.called(decorator.func if isinstance(decorator, ast.Call) else decorator)
    return called == f"click.{name}" and "click" in {each.partition(".")[0] for each in source.imported.values()}


def _parameters(source: Source, function: _Function) -> Iterator[ast.Call]:
    """The `click.option(...)` and `click.argument(...)` above a function, those kept in a name too."""
    for decorator in function.decorator_list:
        call = source.assigned.get(decorator.id) if isinstance(decorator, ast.Name) else decorator
        if isinstance(call, ast.Call) and (_ends(source, call, "option") or _ends(source, call, "argument")):
            yield call


def _click_argument(source: Source, call: ast.Call) -> Argument | str:
    words = {word.arg: word.value for word in call.keywords if word.arg}
    names = [source.value(item) for item in call.args]
    if not names or not all(isinstance(name, str) and name for name in names):
        return f"{source.at(call)}: an option whose name is only known when the script runs"
    option = _ends(source, call, "option")
    flags = [name for name in names if not name.isidentifier()] if option else []
    if option and not flags:
        return f"{source.at(call)}: an option without a name that starts with '-'"
    flag = max(flags, key=lambda name: name.startswith("--"), default="")
    flag, _, off = flag.partition("/")
    name = next((name for name in names if name.isidentifier()), flag.lstrip("-")) if option else names[0]
    default = source.value(words["default"]) if "default" in words else None
    literal = {word: source.value(value) for word, value in words.items()}
    asked = literal.get("prompt") not in (None, False)  # asks on a terminal, and a job has none
    required = literal.get("required") is True or (asked and default is None)
    if not option:
        required = literal.get("required") is True or ("required" not in literal and default is None and nargs != -1)
    argument = Argument(
        flag=flag.strip(),
        name=name,
        line=call.lineno,
        required=required,
        help=help_text(literal.get("help")),
        variable=source.variable(words.get("default")),
    )
    if off or literal.get("is_flag") is True or "flag_value" in words or literal.get("count") is True:
        return replace(argument, obstacle=f"a flag, or {off.strip()}" if off else "a flag", values="")
    if literal.get("hide_input") is True:
        return replace(
            argument,
            obstacle="a secret, which has no place in a command: give it an envvar=, and name that under secrets:",
        )
    if (
        literal.get("multiple") is True
        or isinstance(words.get("type"), ast.Tuple)
        or literal.get("nargs") not in (None, 1)
    ):
        return replace(argument, obstacle="takes several values")
    if any(word.arg is None for word in call.keywords):
        return replace(argument, obstacle="part of it (**) is only known when the script runs")
    return _typed(source, argument, words.get("type"), default)


_CLICK_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"} | {
    f"click.{name}": kind
    for name, kind in (
        ("INT", "integer"),
        ("FLOAT", "number"),
        ("STRING", "string"),
        ("BOOL", "boolean"),
        ("Path", "string"),
    )
}


def _typed(source: Source, argument: Argument, node: ast.expr | None, default: Any) -> Argument:
    while isinstance(default, FromEnv):
        default = default.fallback
    if node is None:
        kind = {int: "integer", float: "number", bool: "boolean"}.get(type(default), "string")
        return settled(argument, kind, default, None)
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = source.called(call.func)
    if name == "click.Choice":
        return settled(argument, "string", default, source.value(call.args[0]) if call.args else None)
    if name == "click.File":
        mode = source.value(call.args[0]) if call.args else "r"
        return settled(
            replace(argument, path="read" if str(mode).startswith("r") else "write"), "string", default, None
        )
    if name in ("click.IntRange", "click.FloatRange"):
        return settled(
            _bounded(source, argument, call), "integer" if name == "click.IntRange" else "number", default, None
        )
    kind = _CLICK_TYPES.get(name, "string")
    if kind == "string" and isinstance(default, (int, float)):
        default = str(default)
    return settled(argument, kind, default, None)


def _bounded(source: Source, argument: Argument, call: ast.Call) -> Argument:
    words: dict[str, Any] = dict(zip(("min", "max"), (source.value(item) for item in call.args), strict=False))
    words |= {word.arg: source.value(word.value) for word in call.keywords if word.arg}
    low, high = (words.get(bound) if isinstance(words.get(bound), (int, float)) else None for bound in ("min", "max"))
    if words.get("min_open") or words.get("max_open") or words.get("clamp"):
        low = high = None
    return replace(argument, minimum=low, maximum=high)


# typer


def typer_arguments(source: Source) -> Iterator[Argument | str]:
    """The signature of the script's one command, given to `typer.run` or under `@app.command()`."""
    if "typer" not in {each.partition(".")[0] for each in source.imported.values()}:
        return
    run = {
        source.called(node.args[0])
        for node, _ in source.calls("run")
        if node.args and source.called(node.func) == "typer.run"
    }
    commands = [
        function
        for function in _functions(source)
        if function.name in run
        or any(isinstance(each, ast.Call) and _method(each) == "command" for each in function.decorator_list)
    ]
    if len(commands) > 1:
        names = ", ".join(one.name for one in commands)
        yield f"{source.at(commands[0])}: subcommands ({names}): add one, and its own arguments, to the end of the command"
    elif commands:
        signature = commands[0].args
        given = [*[None] * (len(signature.args) - len(signature.defaults)), *signature.defaults, *signature.kw_defaults]
        for parameter, default in zip([*signature.args, *signature.kwonlyargs], given, strict=True):
            yield _typer_argument(source, parameter, default)


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _typer_argument(source: Source, parameter: ast.arg, given: ast.expr | None) -> Argument:
    annotation, extra = _annotation(source, parameter.annotation)
    if isinstance(given, ast.Call) and source.called(given.func) in ("typer.Option", "typer.Argument"):
        extra, given = given, given.args[0] if given.args else None
    words = extra.args if extra else []
    if extra is not None and given is not None and words and words[0] is given:
        words = words[1:]
    names = [name for name in map(source.value, words) if isinstance(name, str)]
    keywords = {word.arg: source.value(word.value) for word in extra.keywords} if extra else {}
    has_default = given is not None and not (isinstance(given, ast.Constant) and given.value is ...)
    positional = source.called(extra.func) == "typer.Argument" if extra else not has_default
    long = next((name for name in names if name.startswith("--")), names[0] if names else "")
    argument = Argument(
        flag="" if positional else long.partition("/")[0] or "--" + parameter.arg.replace("_", "-"),
        name=parameter.arg,
        line=parameter.lineno,
        required=not has_default,
        help=help_text(keywords.get("help")),
    )
    default = source.value(given) if has_default else None
    kind = source.called(annotation)
    if kind == "bool":
        both = "" if names else f", or --no-{argument.flag.lstrip('-')}"
        return replace(argument, obstacle="a flag" + both, values="")
    if isinstance(annotation, ast.Subscript) and source.called(annotation.value) in ("typing.Literal", "Literal"):
        return settled(argument, "string", default, source.value(annotation.slice))
    if isinstance(annotation, ast.Subscript):
        return replace(argument, obstacle="takes several values")
    if annotation is None and isinstance(default, (bool, int, float)):
        return replace(argument, obstacle=f"its default, {default!r}, has no type")
    kind = {"int": "integer", "float": "number"}.get(kind, "string")
    if kind == "string" and not isinstance(default, str) and default is not None:
        default = UNKNOWN
    bounds = {bound: keywords.get(word) for bound, word in (("minimum", "min"), ("maximum", "max"))}
    argument = replace(argument, **{bound: value for bound, value in bounds.items() if isinstance(value, (int, float))})
    return settled(argument, kind, default, None)


def _annotation(source: Source, node: ast.expr | None) -> tuple[ast.expr | None, ast.Call | None]:
    """The type of a parameter, `Annotated`, `Optional` and `| None` taken off, and the typer.Option or Argument in it."""
    extra = None
    if (
        isinstance(node, ast.Subscript)
        and source.called(node.value).endswith("Annotated")
        and isinstance(node.slice, ast.Tuple)
    ):
        calls = [item for item in node.slice.elts[1:] if isinstance(item, ast.Call)]
        extra = next((call for call in calls if source.called(call.func) in ("typer.Option", "typer.Argument")), None)
        node = node.slice.elts[0]
    if isinstance(node, ast.Subscript) and source.called(node.value).endswith("Optional"):
        node = node.slice
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and node.right.value is None:
        node = node.left
    return node, extra
