"""Requests and answers against botocore's own model of SageMaker, as the service itself would see them.

botocore's client checks types, required and unknown fields before it sends; the service checks patterns, lengths,
ranges and enums as well. All of it is checked here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import botocore.session

_CLASSES = {r"\p{L}": r"^\W\d_", r"\p{N}": r"\d", r"\p{Z}": r"\s", r"\p{Alnum}": "A-Za-z0-9", r"\p{Graph}": r"\S"}


@functools.cache
def service() -> Any:
    """botocore's model of SageMaker."""
    return botocore.session.get_session().get_service_model("sagemaker")


def input_of(operation: str) -> Any:
    return service().operation_model(operation).input_shape


def output_of(operation: str) -> Any:
    return service().operation_model(operation).output_shape


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    # A class that holds \p{L}, which Python's re doesn't know: what is a letter is \w here, its digits and '_' are taken too.
    text = text.replace(r"\p{L}", r"\w")
    for java, python in _CLASSES.items():
        text = text.replace(java, python)
    return re.compile(text)


def problems(shape: Any, value: Any, at: str = "") -> Iterator[str]:
    """What is wrong with a value, in SageMaker's words as far as they matter."""
    kind = shape.type_name
    expected = {
        "structure": dict,
        "map": dict,
        "list": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "long": int,
    }
    if kind == "timestamp":
        if not isinstance(value, (int, float, datetime)):
            yield f"{at}: expected a timestamp"
        return
    if kind in expected and (not isinstance(value, expected[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"Value {value!r} at '{at}' failed to satisfy constraint: Member must be a {kind}"
        return
    limits = shape.metadata
    if kind == "structure":
        for name in shape.required_members:
            if name not in value:
                yield f"Value null at '{at}.{name}' failed to satisfy constraint: Member must not be null"
        for name, each in value.items():
            if name not in shape.members:
                yield f"Unknown field '{at}.{name}'"
            else:
                yield from problems(shape.members[name], each, f"{at}.{name}" if at else name)
        return
    size = value if kind in ("integer", "long") else len(value) if kind != "boolean" else None
    if size is not None and not limits.get("min", size) <= size <= limits.get("max", size):
        said = f"{limits.get('min', '')}..{limits.get('max', '')}"
        yield f"Value {str(value)[:80]!r} at '{at}' failed to satisfy constraint: Member must have size or value within {said}"
    if kind == "list":
        for number, each in enumerate(value):
            yield from problems(shape.member, each, f"{at}.{number + 1}")
    elif kind == "map":
        for name, each in value.items():
            yield from problems(shape.key, name, f"{at} key")
            yield from problems(shape.value, each, f"{at}.{name}")
    elif kind == "string":
        if shape.enum and value not in shape.enum:
            said = ", ".join(shape.enum[:5])
            yield f"Value '{value}' at '{at}' failed to satisfy constraint: Member must satisfy enum value set: [{said}, ...]"
        if "pattern" in limits and not _pattern(limits["pattern"]).fullmatch(value):
            said = f"Member must satisfy regular expression pattern: {limits['pattern']}"
            yield f"Value '{value[:80]}' at '{at}' failed to satisfy constraint: {said}"


def answer(operation: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` that the operation's answer has, times as the protocol writes them."""
    return _shown(output_of(operation), values)


def _shown(shape: Any, value: Any) -> Any:
    if shape.type_name == "structure":
        return {name: _shown(each, value[name]) for name, each in shape.members.items() if value.get(name) is not None}
    if shape.type_name == "list":
        return [_shown(shape.member, each) for each in value]
    if shape.type_name == "timestamp":
        return value.timestamp() if isinstance(value, datetime) else value
    return value
