"""Durations, times and Kubernetes' quantities, read and written."""

from __future__ import annotations

import re
from datetime import datetime, timezone

__all__ = ["cores", "moment", "quantity", "seconds", "shown_seconds"]

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(value: str | int) -> int:
    """`1h30m`, `90s` or a whole number, in seconds. Raises ValueError for anything else, and for less than a second."""
    if isinstance(value, str):
        if not re.fullmatch(r"(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?", value):
            raise ValueError(f"got {value!r}, expected a duration such as 2h, 1h30m or 90s")
        value = sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", value))
    if not 1 <= value <= 366 * 86400:
        raise ValueError(f"got {value} seconds, expected from one second to a year")
    return value


def quantity(value: str | int) -> int:
    """`16Gi` or a number of bytes, in bytes. Raises ValueError for anything else, and for less than a byte."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]i?|Ki)?", str(value))
    if not match or (match[2] or "") not in _SUFFIX:
        raise ValueError(f"got {value!r}, expected a quantity such as 16Gi")
    size = float(match[1]) * _SUFFIX[match[2] or ""]
    if not 1 <= size <= 2**60:
        raise ValueError(f"got {value!r}, expected from one byte to 2^60")
    return int(size)


def cores(value: str | float) -> float:
    """`4`, `0.5` or `500m`, in cores. Raises ValueError for anything else, and for none at all."""
    text = str(value)
    try:
        number = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        raise ValueError(f"got {value!r}, expected cores such as 4, 0.5 or 500m") from None
    if not 0 < number < 1e6:
        raise ValueError(f"got {value!r}, expected more than no core, and less than a million")
    return number


def moment(value: object) -> datetime | None:
    """ISO 8601 in UTC with any number of digits of a second, which Python before 3.11 doesn't read; None for what is none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?", str(value or ""))
    if not match:
        return None
    time = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return time.replace(microsecond=int((match[2] or "0")[:6].ljust(6, "0")))


def shown_seconds(value: float) -> str:
    """A span of time for people: `0.42s`, `12s`, `3m 20s`, `2h 5m`."""
    if value < 10:
        return f"{value:.2f}s"
    if value < 60:
        return f"{value:.0f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m"
