"""The JSON Schemas of the job file and of the configuration, and what in a document doesn't keep to one.

What is published is in schema/ (draft 2020-12). jsonschema checks it, with three differences: a whole number is none with a
point, `$` is the very end of a text, and items are compared by what they are written as.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .document import Document, Keys
from .errors import did_you_mean, one_line

__all__ = ["check", "text"]


def text(name: str) -> str:
    """The JSON Schema (draft 2020-12) called `name`, 'job' or 'config', as it is shipped."""
    return (Path(__file__).parent / "schema" / f"{name}.json").read_text(encoding="utf-8")


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator, validators  # a third of a CLI's start: only where something is checked

    extend: Any = validators.extend
    made = extend(
        Draft202012Validator,
        {"pattern": _pattern, "uniqueItems": _unique_items},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
    )
    return made(json.loads(text(name)))


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    """As ECMA-262 means `$`: the very end, where Python's `$` lets a line break follow."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{one_line(value)} does not match {pattern}")


def _unique_items(validator: Any, unique: bool, value: Any, schema: Any) -> Iterator[Any]:
    """Without comparing each item with each: a long list of mappings took minutes."""
    from jsonschema import ValidationError

    if unique and isinstance(value, list) and len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
        yield ValidationError("an item is given twice")


def check(document: Document, name: str, elsewhere: Mapping[str, str] | None = None) -> None:
    """Raises document.error unless the document keeps to the schema called `name`.

    `elsewhere` has, for fields that people expect and that belong in another place, the sentence that says where.
    """
    errors = list(_validator(name).iter_errors(document.data))
    if not errors:
        return
    found = [_explained(document, error, elsewhere or {}) for error in errors]
    _, keys, said = min(found, key=lambda one: one[0])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise document.fail(keys, said + more)


def _explained(document: Document, error: Any, elsewhere: Mapping[str, str]) -> tuple[tuple[bool, int], Keys, str]:
    """The order, the place and the text of one violation of a schema: by line, and what is missing last, for it may
    only be misspelt."""
    keys: Keys = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        keys = (*keys, unknown)
        if len(keys) == 1 and unknown in elsewhere:
            text = elsewhere[unknown]
        else:
            text = f"unknown field{did_you_mean(unknown, known) or f'; expected {_listed(known)}'}"
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        text = f"{missing[0]} is missing"
        purpose = error.schema.get("properties", {}).get(missing[0], {}).get("description")
        text += f": {purpose[0].lower()}{purpose[1:].rstrip('.')}" if purpose else ""
    else:
        if "propertyNames" in error.absolute_schema_path:  # what is wrong is a name, not what it names
            keys = (*keys, str(error.instance))
        text = f"got {one_line(error.instance)}, expected {_expected(error.schema, error)}"
        if error.validator == "enum" and isinstance(error.instance, str):
            text += did_you_mean(error.instance, [str(item) for item in error.validator_value])
    line = next((document.lines[keys[:cut]] for cut in range(len(keys), -1, -1) if keys[:cut] in document.lines), 0)
    return (error.validator == "required", line), keys, text


_TYPES = {
    "string": "a string", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "nothing",
}  # fmt: skip
_BOUNDS = {"min": "at least", "max": "at most"}
_UNITS = {"Items": "item", "Length": "character", "Properties": "field"}


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "nothing"


def _expected(schema: Mapping[str, Any], error: Any) -> str:
    if "expected" in schema:
        return str(schema["expected"])
    if error.validator == "enum":
        return _listed([str(item) for item in error.validator_value])
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return _listed([_TYPES[kind] for kind in kinds])
    if error.validator in ("minimum", "maximum"):
        return f"{_BOUNDS[error.validator[:3]]} {error.validator_value}"
    if error.validator[:3] in _BOUNDS and error.validator[3:] in _UNITS:
        count, unit = error.validator_value, _UNITS[error.validator[3:]]
        return f"{_BOUNDS[error.validator[:3]]} {count} {unit}{'' if count == 1 else 's'}"
    return "each once" if error.validator == "uniqueItems" else str(error.message)
