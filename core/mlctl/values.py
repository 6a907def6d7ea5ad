"""What the value of a setting may be: the words of a backend's table of its settings, which `Settings.check` reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .units import seconds

__all__ = ["Allowed", "address", "duration", "flag", "text", "whole", "words"]

Allowed = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Setting -> whether a value of it is right, and what is expected, for the message."""


def text(pattern: str) -> Callable[[Any], bool]:
    """A string that the whole pattern matches."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def address(pattern: str) -> Callable[[Any], bool]:
    """Likewise, and of a host and a port that there can be."""

    def right(value: Any) -> bool:
        try:
            return text(pattern)(value) and urlsplit(value).port != 0
        except ValueError:  # half of an IPv6 address, a port beyond 65535
            return False

    return right


def whole(least: int, most: int) -> Callable[[Any], bool]:
    """A whole number from `least` to `most`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def words(value: Any) -> bool:
    """A mapping of strings to strings."""
    return isinstance(value, Mapping) and all(isinstance(each, str) for each in (*value, *value.values()))


def duration(value: Any) -> bool:
    """What `units.seconds` reads, and more than nothing."""
    try:
        return not isinstance(value, bool) and bool(seconds(value))
    except (ValueError, TypeError):
        return False
