"""A container's log, line by line, from a cursor on.

The engine's only way to go on is `since`, a time. So the cursor is SECOND:COUNT: of the messages from that second on, COUNT were
given. Two streams are noted by two hands, whose times can be out of order by a little: the second lies a whole one back.
"""

from __future__ import annotations

import re

from mlctl.runs import Logs

from . import states
from .engine import Engine

__all__ = ["read"]

CHUNK = 1 << 20  # bytes after which a batch is handed out
_MESSAGE = re.compile(rb"(\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)) ")


def read(engine: Engine, container: str, since: str, ended: bool) -> Logs:
    """Lines after the cursor. One without its end is given once the container has ended, or is longer than CHUNK."""
    second, given = (int(part) for part in (since or "0:0").split(":"))
    seconds: list[int] = []  # of each message from `second` on
    lines: list[str] = []
    whole, size = given, 0  # messages up to which every line is whole; bytes
    shown = 0  # lines that they make
    begun = {1: b"", 2: b""}  # of each stream, the line that has no end yet
    for stream, message in engine.frames(container, second):
        found = _MESSAGE.match(message)
        seconds.append(int(states.seconds(found[1].decode())) if found else second)
        if len(seconds) <= given:
            continue
        begun[stream] = begun.get(stream, b"") + message[found.end() if found else 0 :]
        size += len(message)
        if begun[stream].endswith(b"\n") or len(begun[stream]) > CHUNK:
            lines.append(begun[stream].removesuffix(b"\n").decode("utf-8", "replace"))
            begun[stream] = b""
        if not any(begun.values()):
            whole, shown = len(seconds), len(lines)
            if size > CHUNK:
                break
    else:
        for text in filter(None, begun.values() if ended else ()):
            lines.append(text.decode("utf-8", "replace"))
            whole, shown = len(seconds), len(lines)
    if whole == given:
        return Logs((), since)
    following = max(second, seconds[whole - 1] - 1)
    return Logs(tuple(lines[:shown]), f"{following}:{sum(each >= following for each in seconds[:whole])}")
