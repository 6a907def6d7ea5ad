"""What a job wrote: the log of its pod, which KFP's server gives from its start each time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from mlctl.backends._pods import METRICS
from mlctl.errors import InvalidConfig, one_line
from mlctl.runs import Logs

from .launch import END
from .service import Missing, Service

__all__ = ["CHUNK", "read", "whole"]

CHUNK = 1 << 20
"""Bytes that are shown at once."""

_LARGEST = 64 << 20  # bytes that are read of a log; the kubelet keeps 10 MiB
_HEAD = 1024  # bytes by which a log is known to be the one that it was
_EXECUTOR = re.compile(r"executor(\(\d+\))?")


def pods(found: Mapping[str, Any]) -> list[str]:
    """What the pod of a run's task may be called: KFP has its node's name, and older ones want the pod's."""
    names: list[str] = []
    for task in (found.get("run_details") or {}).get("task_details") or []:
        if not _EXECUTOR.fullmatch(str(task.get("display_name"))) or not task.get("pod_name"):
            continue
        name = str(task["pod_name"])
        head, _, number = name.rpartition("-")
        names.append(name)
        if "-system-container-impl" not in head:
            names.append(f"{head}-system-container-impl-{number}")
    return names


def _content(service: Service, found: Mapping[str, Any], limit: int) -> bytes | None:
    """The log's first bytes; None where there is none, yet or any more."""
    for name in pods(found):
        try:
            return service.log(str(found["run_id"]), name, limit)
        except Missing:
            continue
    return None


def whole(service: Service, found: Mapping[str, Any]) -> str | None:
    """All of a log; None where there is none, yet or any more."""
    content = _content(service, found, _LARGEST)
    return None if content is None else content.decode("utf-8", "replace")


def read(service: Service, found: Mapping[str, Any], over: bool, since: str) -> Logs:
    """Lines after the cursor. A log that is another than it was, as its beginning was dropped, is read anew."""
    match = re.fullmatch(r"(\d+)\.([0-9a-f]{8})", since or f"0.{_known(b'')}")
    if not match:
        raise InvalidConfig(f"got the cursor {one_line(since)}, expected one that a call before gave")
    start = int(match[1])
    content = _content(service, found, min(start + CHUNK, _LARGEST))
    if content is None:
        return Logs((), since)
    if _known(content[:start]) != match[2]:
        start, content = 0, content[:CHUNK]
    new = content[start:]
    cut = len(new) >= CHUNK
    if not over or cut:  # what has no end of its line yet, but for a line that is longer than all that is read at once
        new = new[: new.rfind(b"\n") + 1] or (new if cut else b"")
    if not new:
        return Logs((), since)
    start += len(new)
    lines = [_shown(line) for line in new.decode("utf-8", "replace").removesuffix("\n").split("\n")]
    return Logs(tuple(line for line in lines if line is not None), f"{start}.{_known(content[:start])}")


def _known(content: bytes) -> str:
    return hashlib.sha256(content[:_HEAD]).hexdigest()[:8]


def _shown(line: str) -> str | None:
    """A line as the job wrote it; None for one of ours, and what stands before it where the job ended no line."""
    text, found, _ = (
        re.split(rf"({re.escape(METRICS)}\{{|{re.escape(END)}\d)", line, maxsplit=1) if _ours(line) else (line, "", "")
    )
    return (text or None) if found else line


def _ours(line: str) -> bool:
    return METRICS + "{" in line or re.search(rf"{re.escape(END)}\d", line) is not None
