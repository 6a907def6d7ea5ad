"""The table of kinds, in a module of its own: an orchestrator names its parts after it wherever a pipeline is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One sort of job. What differs between kinds is here; everything else is the same for all."""

    name: str
    summary: str
    output_type: str
    """The type of an output that doesn't say its own."""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("process", "prepares data: reads inputs, writes outputs", "dataset"),
        Kind("train", "fits a model and measures it", "model"),
        Kind("batch-inference", "applies a model to a data set", "dataset"),
    )
}
