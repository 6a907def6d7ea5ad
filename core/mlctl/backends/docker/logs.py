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
    whole, size = given, 0  # messages that are in `lines`, or were given before; bytes
    begun = b""
    for message in engine.frames(container, second):
        found = _MESSAGE.match(message)
        seconds.append(int(states.seconds(found[1].decode())) if found else second)
        if len(seconds) <= given:
            continue
        begun += message[found.end() if found else 0 :]
        size += len(message)
        if begun.endswith(b"\n") or len(begun) > CHUNK:
            lines.append(begun.removesuffix(b"\n").decode("utf-8", "replace"))
            whole, begun = len(seconds), b""
            if size > CHUNK:
                break
    if begun and ended:
        lines.append(begun.decode("utf-8", "replace"))
        whole = len(seconds)
    if not lines:
        return Logs((), since)
    following = max(second, seconds[whole - 1] - 1)
    return Logs(tuple(lines), f"{following}:{sum(each >= following for each in seconds[:whole])}")
