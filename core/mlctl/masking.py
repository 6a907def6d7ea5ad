"""Keeps the values of a job's secrets out of what is shown of it, as far as this machine knows them.

What only the platform can read, of its own secret store, is the platform's to mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["MASK", "mask", "values"]

MASK = "***"
_SHORTEST = 3  # characters: what is shorter would mask half the log


def values(secrets: Iterable[str], settings: Mapping[str, Any]) -> list[str]:
    """What not to show, as far as this machine can read the secrets of these names: each line, for logs are shown by
    lines, the longest first. `settings` are the target's."""
    lines = {line.strip() for value in _known(secrets, settings) for line in value.splitlines()}
    return sorted((line for line in lines if len(line) >= _SHORTEST), key=len, reverse=True)


def mask(secrets: Iterable[str], settings: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that puts *** in place of each of the `values`."""
    known = values(secrets, settings)

    def masked(text: str) -> str:
        for each in known:
            text = text.replace(each, MASK)
        return text

    return masked


def _known(secrets: Iterable[str], settings: Mapping[str, Any]) -> Iterator[str]:
    sources = settings.get("secrets") or {}
    for name in secrets:
        kind, _, where = str(sources.get(name, f"env:{name}")).partition(":")
        if kind == "env":
            yield os.environ.get(where, "")
        elif kind == "file":
            with suppress(OSError, ValueError, RuntimeError):  # the platform says so, if it needs the secret
                yield Path(where).expanduser().read_text(encoding="utf-8", errors="replace")
