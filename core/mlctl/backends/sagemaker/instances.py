"""Which instance has what a job asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mlctl.job import Resources

__all__ = ["SIZES", "Size", "choose", "lacks"]

_GIB = 2**30


class Size(NamedTuple):
    """Cores, GiB of memory, and the accelerators of an instance."""

    cpu: int
    memory: int
    accelerator: str = ""
    number: int = 0


def _sizes() -> Iterator[tuple[str, Size]]:
    for family, times in (("m5", 4), ("r5", 8)):
        for name, cpu in (
            ("large", 2),
            ("xlarge", 4),
            ("2xlarge", 8),
            ("4xlarge", 16),
            ("12xlarge", 48),
            ("24xlarge", 96),
        ):
            yield f"ml.{family}.{name}", Size(cpu, cpu * times)
    for family, accelerator, times, many in (
        ("g4dn", "T4", 4, {"12xlarge": 4}),
        ("g5", "A10G", 4, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        ("g6", "L4", 4, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        ("g6e", "L40S", 8, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    ):
        for name in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge"):
            if family == "g4dn" and name in ("24xlarge", "48xlarge"):
                continue
            cpu = 4 * int(name.removesuffix("xlarge") or 1)
            yield f"ml.{family}.{name}", Size(cpu, cpu * times, accelerator, many.get(name, 1))
    yield "ml.p3.2xlarge", Size(8, 61, "V100", 1)
    yield "ml.p3.8xlarge", Size(32, 244, "V100", 4)
    yield "ml.p3.16xlarge", Size(64, 488, "V100", 8)
    yield "ml.p4d.24xlarge", Size(96, 1152, "A100", 8)
    yield "ml.p5.48xlarge", Size(192, 2048, "H100", 8)


SIZES: Mapping[str, Size] = dict(_sizes())
"""The instances chosen from. Others may be named, and are not checked."""


def asks(resources: Resources) -> bool:
    """Whether the job says anything that an instance is chosen by."""
    return any((resources.cpu, resources.memory, resources.accelerators))


def lacks(size: Size, resources: Resources) -> str:
    """What an instance has too little of, in words, or nothing."""
    wanted = resources.accelerators
    if wanted and (size.accelerator.lower() != wanted.name.lower() or size.number < wanted.count):
        return f"{size.number} {size.accelerator}" if size.number else "no accelerator"
    if resources.cpu and size.cpu < resources.cpu:
        return f"{size.cpu} cores"
    if resources.memory and size.memory * _GIB < resources.memory:
        return f"{size.memory} GiB"
    return ""


def choose(resources: Resources, training: bool) -> str:
    """The smallest instance that has what is asked for. Raises ValueError where none has."""
    fits = [
        (size.number, size.cpu, size.memory, name)
        for name, size in SIZES.items()
        if not lacks(size, resources)
        and bool(size.number) == bool(resources.accelerators)
        and (training or not name.startswith(("ml.p4d", "ml.p5")))
    ]
    if not fits:
        raise ValueError("no instance known here has that; name one: platforms: {sagemaker: {instance_type: ml....}}")
    return min(fits)[-1]
