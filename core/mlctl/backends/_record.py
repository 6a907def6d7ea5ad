"""mlctl's record of a run, its stamp in it, cut into what a variable or a property of a platform's job may hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlctl.runs import Stamp

__all__ = ["LARGEST", "cut", "joined", "stamp_of"]

LARGEST = Stamp("k" * 64, "d" * 64, "p" * 512, {}, "n" * 32)
"""As large as a stamp gets, but for what its caller keeps with the run, which a plan doesn't know."""


def cut(record: Mapping[str, Any], stamp: Stamp, prefix: str, size: int, most: int, keeper: str) -> dict[str, str]:
    """Names that begin with `prefix` -> pieces of `size` characters.

    Raises ValueError where they are more than the `most` that the `keeper` keeps.
    """
    text = json.dumps({**record, "stamp": vars(stamp)}, sort_keys=True, separators=(",", ":"))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    if len(pieces) > most:
        raise ValueError(f"what is kept with the run takes {len(text)} characters, and {keeper} keeps {most * size}")
    return {f"{prefix}{number:02}": piece for number, piece in enumerate(pieces)}


def joined(kept: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """What `cut` cut, from among what the platform keeps. Raises ValueError for a job that is none of mlctl's."""
    found = json.loads("".join(text for name, text in sorted(kept.items()) if name.startswith(prefix)))
    if not isinstance(found, dict) or not {"stamp", "outputs", "metrics"} <= found.keys():
        raise ValueError("no record of mlctl's")
    return found


def stamp_of(record: Mapping[str, Any]) -> Stamp:
    """The stamp in a record. Raises ValueError for what is none."""
    return Stamp.of_json(json.dumps(record["stamp"]))
