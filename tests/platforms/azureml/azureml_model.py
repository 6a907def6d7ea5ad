"""Requests against azure-ai-ml's own model of the service: unknown, missing and read-only fields, types, enums, variants.

The SDK's client serializes whatever it is given; the service checks. All of that is checked here.
"""

from __future__ import annotations

import enum
import functools
import re
import types
import typing
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # azure-ai-ml's own, when it is imported
    import azure.ai.ml._restclient.arm_ml_service.models as models
    from azure.ai.ml._restclient.arm_ml_service.models import _models

_DURATION = re.compile(r"P(?=.)(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?")
_NONE = type(None)


@functools.cache
def _hints(model: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        scope = {**vars(_models), "_models": models}
        for name, hint in vars(base).get("__annotations__", {}).items():
            found[name] = eval(hint, scope) if isinstance(hint, str) else hint
    return found


def described(hint: Any) -> bool:
    """Whether a type is one of the model's objects; its fields are known from then on."""
    if not (isinstance(hint, type) and issubclass(hint, _models._Model)):
        return False
    hint.__new__(hint)  # which is where the SDK finds out
    return True


@functools.cache
def fields(model: type) -> dict[str, tuple[Any, bool, bool]]:
    """JSON name -> its type, whether a request must have it, whether a request may have it."""
    assert described(model)
    hints, found = _hints(model), {}
    for attribute, field in model._attr_to_rest_field.items():  # type: ignore[attr-defined]
        hint = hints[attribute]
        optional = _NONE in typing.get_args(hint)
        readable = field._visibility is not None and not {"create", "update"} & set(field._visibility)
        found[field._rest_name] = (hint, not optional and not readable, not readable)
    return found


def variant(model: type, value: Any) -> tuple[type, str]:
    """The class that a value's discriminator names, and what is wrong with that."""
    mapping = {key: each for key, each in getattr(model, "__mapping__", {}).items() if key}
    names = [field._rest_name for field in model._attr_to_rest_field.values() if field._is_discriminator]  # type: ignore[attr-defined]
    if not mapping or not names or not isinstance(value, dict):
        return model, ""
    given = value.get(names[0])
    known = {str(getattr(key, "value", key)): each for key, each in mapping.items()}
    if not isinstance(given, str) or given not in known:
        return model, f"{names[0]}: got {given!r}, expected {', '.join(known)}"
    return known[given], ""


def problems(hint: Any, value: Any, at: str = "") -> Iterator[str]:
    """What is wrong with a value of a request."""
    hint = plain(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin is typing.Literal:
        if value not in [getattr(each, "value", each) for each in args]:
            yield f"{at}: got {value!r}"
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{at}: expected an object, got {value!r}"
            return
        for name, each in value.items():
            yield from problems(args[1], each, f"{at}.{name}")
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at}: expected a list, got {value!r}"
            return
        for number, each in enumerate(value):
            yield from problems(args[0], each, f"{at}[{number}]")
    elif described(hint):
        yield from _object(hint, value, at)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        known = [each.value for each in hint]
        if value not in known:
            yield f"{at}: got {value!r}, expected {', '.join(map(str, known[:6]))}"
    elif hint is timedelta:
        if not isinstance(value, str) or not _DURATION.fullmatch(value):
            yield f"{at}: got {value!r}, expected a duration of ISO 8601"
    elif isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        yield f"{at}: got {value!r}, expected {hint.__name__}"


def _object(model: type, value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: expected an object, got {value!r}"
        return
    actual, wrong = variant(model, value)
    if wrong:
        yield f"{at}.{wrong}"
        return
    known = fields(actual)
    for name in value.keys() - known.keys():
        yield f"{at}.{name}: no such field"
    for name, (_, required, _) in known.items():
        if required and value.get(name) is None:
            yield f"{at}.{name}: is missing"
    for name, each in value.items():
        if name in known and each is not None:
            hint, _, allowed = known[name]
            if not allowed:
                yield f"{at}.{name}: is the service's to say"
            yield from problems(hint, each, f"{at}.{name}")


def job(body: Any) -> list[str]:
    """What is wrong with the body of a job."""
    return list(problems(models.JobBase, body, "job"))


def environment(body: Any) -> list[str]:
    """What is wrong with the body of an environment's version."""
    return list(problems(models.EnvironmentVersion, body, "environment"))


def plain(hint: Any) -> Any:
    """A type without `Optional`, and of a choice between text and an enum, the enum."""
    if isinstance(hint, (str, typing.ForwardRef)):
        name = hint if isinstance(hint, str) else hint.__forward_arg__
        return plain(eval(name, {**vars(_models), "_models": models}))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [plain(each) for each in typing.get_args(hint) if each is not _NONE]
        return next((each for each in inner if isinstance(each, type) and issubclass(each, enum.Enum)), inner[0])
    return hint


def inside(hint: Any) -> Any:
    """The type of a mapping's values."""
    args = typing.get_args(hint)
    return args[1] if typing.get_origin(hint) is dict else Any


def limited(hint: Any) -> bool:
    """Whether not any text may stand there."""
    return (isinstance(hint, type) and (issubclass(hint, enum.Enum) or hint is timedelta)) or (
        typing.get_origin(hint) is typing.Literal
    )
