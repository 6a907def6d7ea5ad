"""A Python script as data: parsed, never run, with what its literals, imports and environment variables say."""

from __future__ import annotations

import ast
import io
import math
import operator
import re
import sys
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mlctl.errors import InvalidConfig, one_line, refused

__all__ = ["UNKNOWN", "FromEnv", "Function", "Source"]

MAX_BYTES = 1 << 20

Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Unknown:
    """A value that is only known when the script runs."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class FromEnv:
    """The value of an environment variable; `fallback` where it isn't set, UNKNOWN where the script needs it set."""

    name: str
    fallback: Any = None


class Source:
    """The script at `path`.

    Raises InvalidConfig, with the line, unless it is a Python script of at most 1 MiB; Unavailable where the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = _parse(path)
        self.nodes = sorted(
            ast.walk(self.tree), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
        )
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self._names: dict[str, Any] = {}

    def at(self, node: ast.AST) -> str:
        """`train.py:12`, for messages."""
        return f"{self.path.name}:{getattr(node, 'lineno', 1)}"

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method, in the order of the source."""
        return [node for node in self.nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    @cached_property
    def _methods(self) -> dict[str, list[tuple[ast.Call, ast.Attribute]]]:
        found: dict[str, list[tuple[ast.Call, ast.Attribute]]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found.setdefault(node.func.attr, []).append((node, node.func))
        return found

    def calls(self, method: str) -> list[tuple[ast.Call, ast.Attribute]]:
        """Every `something.method(...)`, in the order of the source."""
        return self._methods.get(method, [])

    @cached_property
    def callers(self) -> dict[str, list[ast.Call]]:
        """The calls of each name."""
        found: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.setdefault(node.func.id, []).append(node)
        return found

    @cached_property
    def assignments(self) -> dict[str, list[ast.Assign]]:
        """The statements that bind a name or an attribute, under what it is written as: `parser`, `self.parser`."""
        found: dict[str, list[ast.Assign]] = {}
        for node in self.nodes:
            for target in node.targets if isinstance(node, ast.Assign) else []:
                if isinstance(target, (ast.Name, ast.Attribute)):
                    found.setdefault(ast.unparse(target), []).append(node)  # type: ignore[arg-type]
        return found

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """From the parent outwards."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> Function | None:
        """The function that `node` stands in; None at the module's level."""
        inside = (each for each in self.ancestors(node) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))
        return next(inside, None)

    @cached_property
    def imported(self) -> dict[str, str]:
        """What imported names stand for: `{"np": "numpy", "Parser": "argparse.ArgumentParser"}`."""
        names: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for one in node.names:
                    bound = one.name if one.asname else one.name.partition(".")[0]
                    names[one.asname or bound] = bound
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        return names

    def called(self, node: ast.AST | None) -> str:
        """The full name of what an expression names, aliases resolved: `os.environ.get`; empty for anything else."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.called(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """The expressions of names that the whole script binds once, and to nothing but one expression."""
        values: dict[str, ast.expr] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                values[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                values[node.target.id] = node.value
        stored = Counter(
            node.id for node in self.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )
        given = {node.arg for node in self.nodes if isinstance(node, ast.arg)}
        return {name: value for name, value in values.items() if stored[name] == 1 and name not in given}

    def value(self, node: ast.AST | None, depth: int = 20) -> Any:
        """What an expression is: a string, number, bool, None or list of them; a FromEnv; else UNKNOWN.

        A path is its string. A dictionary is its keys, as `choices` sees it.
        """
        if node is None or depth == 0:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value if _plain(node.value) else UNKNOWN
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            items = [self.value(item, depth - 1) for item in node.elts]
            return UNKNOWN if any(item is UNKNOWN or isinstance(item, FromEnv) for item in items) else items
        if isinstance(node, ast.Dict):
            return UNKNOWN if None in node.keys else self.value(ast.List([key for key in node.keys if key]), depth - 1)
        if isinstance(node, ast.Name):
            if node.id not in self._names:
                self._names[node.id] = UNKNOWN  # what a name that is made of itself is
                self._names[node.id] = self.value(self.assigned.get(node.id), depth - 1)
            return self._names[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            operand = self.value(node.operand, depth - 1)
            return UNKNOWN if not _number(operand) else -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp):
            return _computed(node.op, self.value(node.left, depth - 1), self.value(node.right, depth - 1))
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2:
            first = self.value(node.values[0], depth - 1)
            return FromEnv(first.name, self.value(node.values[1], depth - 1)) if isinstance(first, FromEnv) else UNKNOWN
        if isinstance(node, ast.Subscript) and self.called(node.value) == "os.environ":
            name = self.value(node.slice, depth - 1)
            return FromEnv(name, UNKNOWN) if isinstance(name, str) else UNKNOWN
        return self._result(node, depth - 1) if isinstance(node, ast.Call) else UNKNOWN

    def _result(self, call: ast.Call, depth: int) -> Any:
        """What a call of a few well-known functions gives."""
        name, arguments = self.called(call.func), [self.value(item, depth) for item in call.args]
        if name in ("os.environ.get", "os.getenv") and arguments and isinstance(arguments[0], str):
            fallback = next((self.value(word.value, depth) for word in call.keywords if word.arg == "default"), None)
            return FromEnv(arguments[0], arguments[1] if len(arguments) > 1 else fallback)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "keys" and not arguments:
            return self.value(call.func.value, depth)
        if UNKNOWN in arguments or call.keywords or not arguments:
            return UNKNOWN
        if isinstance(arguments[0], FromEnv) and name in ("int", "float", "str", "pathlib.Path", "json.loads"):
            return FromEnv(arguments[0].name, _converted(name, arguments[0].fallback))
        if name in ("pathlib.Path", "pathlib.PurePath", "os.path.join") and all(
            isinstance(item, str) for item in arguments
        ):
            return str(PurePosixPath(*arguments))
        if name in ("list", "tuple", "sorted", "set") and isinstance(arguments[0], list):
            return arguments[0]
        if name == "range" and all(isinstance(item, int) for item in arguments) and 0 not in arguments[2:]:
            numbers = list(range(*arguments[:3])[:101])
            return numbers if len(numbers) <= 100 else UNKNOWN
        return UNKNOWN

    @cached_property
    def environment(self) -> dict[ast.AST, FromEnv]:
        """Every environment variable that the script reads by a literal name, under where it does."""
        found: dict[ast.AST, FromEnv] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call) or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)):
                value = self.value(node)
                if isinstance(value, FromEnv):
                    found[node] = value
        return found

    def variable(self, node: ast.AST | None) -> str:
        """The first environment variable that an expression reads; empty where it reads none."""
        nodes = ast.walk(node) if node is not None else iter(())
        return next((self.environment[each].name for each in nodes if each in self.environment), "")


_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character


def _plain(value: object) -> bool:
    """What JSON can carry as a scalar, within what every reader of it agrees on."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or (isinstance(value, str) and not _SURROGATE.search(value))


def _converted(function: str, value: Any) -> Any:
    """`int("4")` as 4; UNKNOWN where it isn't as plain."""
    try:
        converted = {"int": int, "float": float, "str": str, "pathlib.Path": str}[function](value)
    except (KeyError, TypeError, ValueError):
        return UNKNOWN
    return converted if value is not UNKNOWN and _plain(converted) else UNKNOWN


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: lambda left, right: left**right if abs(left) <= 1000 and abs(right) <= 64 else UNKNOWN,
}


def _computed(kind: ast.operator, left: Any, right: Any) -> Any:
    """Arithmetic as people write defaults in: 1 / 255, 64 * 1024, 2**20, Path("data") / "train.csv"."""
    if isinstance(left, str) and isinstance(right, str):
        paths = {ast.Div: str(PurePosixPath(left, right)), ast.Add: left + right}
        return paths.get(type(kind), UNKNOWN)
    if not (_number(left) and _number(right) and type(kind) in _OPERATIONS):
        return UNKNOWN
    try:
        result = _OPERATIONS[type(kind)](left, right)
    except ArithmeticError:
        return UNKNOWN
    return result if _number(result) and _plain(result) else UNKNOWN


def _parse(path: Path) -> ast.Module:
    try:
        if "\0" in str(path):
            raise InvalidConfig(f"{one_line(str(path))}: no file's name holds a null byte")
        if not path.is_file():
            found = "is not a file" if path.exists() else "no such file"
            raise InvalidConfig(f"{path}: {found}; expected a Python script")
        if path.suffix != ".py":
            raise InvalidConfig(f"{path}: expected a Python script, whose name ends in .py")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except PermissionError:
        raise InvalidConfig(f"{path}: not readable; check its permissions") from None
    except OSError as error:
        raise refused(path, error) from None
    if len(text) > MAX_BYTES:
        raise InvalidConfig(f"{path}: larger than {MAX_BYTES >> 20} MiB; expected a script, as people write them")
    version = "Python {}.{}".format(*sys.version_info)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the script could have written better, such as "\d"
            return ast.parse(_decoded(text), filename=path.name)
    except SyntaxError as error:
        reason = " ".join(str(error.msg).split())
        raise InvalidConfig(f"{path}:{error.lineno or 1}: not {version}: {reason}") from None
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise InvalidConfig(
            f"{path}:{line}: not {version}: not {error.encoding}, and no other encoding declared"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise InvalidConfig(f"{path}: not {version}: {reason}") from None


def _decoded(text: bytes) -> str:
    if b"\0" in text:  # which Python versions tell in different ways
        line = text[: text.index(b"\0")].count(b"\n") + 1
        raise SyntaxError("holds a null byte", ("", line, 1, ""))
    encoding, _ = tokenize.detect_encoding(io.BytesIO(text).readline)
    return text.decode(encoding)
