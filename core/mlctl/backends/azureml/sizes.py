"""Sizes of virtual machines: the smallest one that has what a job asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlctl.job import Resources

__all__ = ["SIZES", "Size", "asks", "choose", "lacks"]

_GIB = 1 << 30


@dataclass(frozen=True)
class Size:
    """Cores, GiB, accelerators, and the family whose quota it counts against."""

    cores: int
    memory: int
    family: str
    accelerator: str = ""
    count: int = 0


SIZES: Mapping[str, Size] = {
    "Standard_DS2_v2": Size(2, 7, "standardDSv2Family"),
    "Standard_E2s_v3": Size(2, 16, "standardESv3Family"),
    "Standard_DS3_v2": Size(4, 14, "standardDSv2Family"),
    "Standard_E4s_v3": Size(4, 32, "standardESv3Family"),
    "Standard_F8s_v2": Size(8, 16, "standardFSv2Family"),
    "Standard_DS4_v2": Size(8, 28, "standardDSv2Family"),
    "Standard_E8s_v3": Size(8, 64, "standardESv3Family"),
    "Standard_F16s_v2": Size(16, 32, "standardFSv2Family"),
    "Standard_DS5_v2": Size(16, 56, "standardDSv2Family"),
    "Standard_E16s_v3": Size(16, 128, "standardESv3Family"),
    "Standard_F32s_v2": Size(32, 64, "standardFSv2Family"),
    "Standard_E32s_v3": Size(32, 256, "standardESv3Family"),
    "Standard_F64s_v2": Size(64, 128, "standardFSv2Family"),
    "Standard_E64s_v3": Size(64, 432, "standardESv3Family"),
    "Standard_NC4as_T4_v3": Size(4, 28, "Standard NCASv3_T4 Family", "T4", 1),
    "Standard_NC8as_T4_v3": Size(8, 56, "Standard NCASv3_T4 Family", "T4", 1),
    "Standard_NC16as_T4_v3": Size(16, 110, "Standard NCASv3_T4 Family", "T4", 1),
    "Standard_NC64as_T4_v3": Size(64, 440, "Standard NCASv3_T4 Family", "T4", 4),
    "Standard_NC6s_v3": Size(6, 112, "standardNCSv3Family", "V100", 1),
    "Standard_NC12s_v3": Size(12, 224, "standardNCSv3Family", "V100", 2),
    "Standard_NC24s_v3": Size(24, 448, "standardNCSv3Family", "V100", 4),
    "Standard_NV36ads_A10_v5": Size(36, 440, "StandardNVADSA10v5Family", "A10", 1),
    "Standard_NV72ads_A10_v5": Size(72, 880, "StandardNVADSA10v5Family", "A10", 2),
    "Standard_NC24ads_A100_v4": Size(24, 220, "StandardNCADSA100v4Family", "A100", 1),
    "Standard_NC48ads_A100_v4": Size(48, 440, "StandardNCADSA100v4Family", "A100", 2),
    "Standard_NC96ads_A100_v4": Size(96, 880, "StandardNCADSA100v4Family", "A100", 4),
    "Standard_ND96asr_v4": Size(96, 900, "standardNDASv4_A100Family", "A100", 8),
    "Standard_NC40ads_H100_v5": Size(40, 320, "standardNCADSH100v5Family", "H100", 1),
    "Standard_NC80adis_H100_v5": Size(80, 640, "standardNCADSH100v5Family", "H100", 2),
    "Standard_ND96isr_H100_v5": Size(96, 1900, "standardNDSH100v5Family", "H100", 8),
}
"""From the smallest on. A10G is AWS's; Azure's nearest, the A10, has another name and is asked for by it."""


def asks(wanted: Resources) -> bool:
    """Whether the size matters to the job."""
    return wanted.cpu is not None or wanted.memory is not None or wanted.accelerators is not None


def lacks(size: Size, wanted: Resources) -> str:
    """What a size has too little of; empty where it has all."""
    gpu = wanted.accelerators
    if gpu and (size.accelerator != gpu.name.upper() or size.count < gpu.count):
        return f"{size.count} {size.accelerator}" if size.count else "no accelerator"
    if wanted.cpu is not None and size.cores < wanted.cpu:
        return f"{size.cores} cores"
    if wanted.memory is not None and size.memory * _GIB < wanted.memory:
        return f"{size.memory} GiB"
    return ""


def choose(wanted: Resources) -> str:
    """The smallest known size. Raises ValueError where there is none."""
    for name, size in SIZES.items():
        if not lacks(size, wanted) and bool(size.count) == bool(wanted.accelerators):
            return name
    known = ", ".join(sorted({f"{size.accelerator}:{size.count}" for size in SIZES.values() if size.count}))
    raise ValueError(f"no size known here has that; accelerators are {known}; set platforms.azureml.instance_type")
