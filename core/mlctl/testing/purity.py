"""A guard that a plan is pure."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["pure"]

_EVENTS = ("open", "os", "socket", "subprocess", "shutil", "tempfile", "fcntl", "pathlib")
_CLOCKS = ("time", "time_ns", "monotonic")

_guarded = False
_hooked = False


@contextlib.contextmanager
def pure() -> Iterator[None]:
    """Fails whatever opens, lists, connects, runs, or asks the clock. An audit hook stays for the life of the process; the flag
    makes it sleep."""
    global _guarded, _hooked
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked = True
    clocks = {name: getattr(time, name) for name in _CLOCKS}
    for name in _CLOCKS:
        setattr(time, name, _forbidden(name))
    _guarded = True
    try:
        yield
    finally:
        _guarded = False
        for name, clock in clocks.items():
            setattr(time, name, clock)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _guarded and event.split(".")[0] in _EVENTS:
        raise AssertionError(f"plan is pure, and did: {event} {args}")


def _forbidden(name: str) -> Callable[[], float]:
    def ask() -> float:
        raise AssertionError(f"plan is pure, and asked the clock: {name}")

    return ask
