"""The log of a run: its pods' logs, one after the other, from a cursor on.

Kubernetes has no cursor but a time in whole seconds, so each line is asked for with its own time, in nanoseconds; the
cursor has, for each pod, the time of the last line and how many of that time there were.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from mlctl.backends import _pods
from mlctl.backends._pods import METRICS
from mlctl.errors import InvalidConfig, one_line
from mlctl.runs import Logs

from .api import Api, Missing
from .pod import CONTAINER

__all__ = ["metric_lines", "read"]

CHUNK = 1 << 20  # bytes of a batch
LARGEST = 64 << 20  # bytes of one second, or of one line, at most


def read(api: Api, namespace: str, pods: Sequence[Mapping[str, Any]], since: str) -> Logs:
    """Lines after the cursor; about CHUNK bytes. Where there are several nodes, each line says which."""
    try:
        seen: dict[str, list[Any]] = json.loads(since) if since else {}
        left = {name: (str(time), int(count)) for name, (time, count) in seen.items()}
    except (ValueError, TypeError, AttributeError):
        raise InvalidConfig(f"got the cursor {one_line(since)}, expected one that a call before gave") from None
    lines: list[str] = []
    size = 0
    for pod in pods:
        name = pod["metadata"]["name"]
        before = left.get(name, ("", 0))
        found, after = _of(api, namespace, pod, before)
        if after != before:
            left[name] = after
        prefix = f"{_node(pod)}: " if len(pods) > 1 else ""
        lines += [f"{prefix}{line}" for line in map(_shown, found) if line is not None]
        size += sum(map(len, found))
        if size >= CHUNK:
            break
    return Logs(tuple(lines), json.dumps(left, sort_keys=True) if left else since)


def _of(api: Api, namespace: str, pod: Mapping[str, Any], since: tuple[str, int]) -> tuple[list[str], tuple[str, int]]:
    """The lines of one pod after the cursor, and the cursor after them."""
    limit = CHUNK
    while True:
        asked = {"container": CONTAINER, "timestamps": "true", "limitBytes": limit}
        if since[0]:
            asked["sinceTime"] = f"{since[0][:19]}Z"
        try:
            text = api.text(api.path("pods", namespace, pod["metadata"]["name"], "log"), **asked)
        except (Missing, InvalidConfig):  # gone with its pod; or it hasn't started: "is waiting to start"
            return [], since
        cut = len(text.encode()) >= limit - 1
        whole = text.split("\n")
        rest = whole.pop()
        if rest and not cut and _over(pod):  # the end, without a line's end
            whole.append(rest)
        found, after = _after(whole, since)
        if found or not cut or limit >= LARGEST:
            return found, after
        limit *= 8


def _after(whole: Sequence[str], since: tuple[str, int]) -> tuple[list[str], tuple[str, int]]:
    last, count = since
    again = 0  # lines of the cursor's own time, counted anew
    found = []
    for line in whole:
        stamp, _, text = line.partition(" ")
        time = _instant(stamp)
        if not time:  # a word of the kubelet's own, such as that the log is gone
            time, text = last, line
        if time <= since[0]:  # both empty where the kubelet's word is all there is
            again += time == since[0]
            if time < since[0] or again <= since[1]:
                continue
        count = count + 1 if time == last else 1
        last = time
        found.append(text)
    return found, (last, count)


def _instant(text: str) -> str:
    """A time in UTC with all nine digits, so that times compare as text does; the node may have another zone."""
    match = re.fullmatch(r"([\d-]+T[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if not match:
        return ""
    whole = match[1]
    if match[3] != "Z":
        whole = datetime.fromisoformat(whole + match[3]).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{(match[2] or '')[:9]:0<9}Z"


def _over(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _shown(line: str) -> str | None:
    """A line as the job wrote it; None for one of ours, and what stands before it where the job ended no line."""
    text, found, _ = line.partition(METRICS + "{")
    return (text or None) if found else line


def _node(pod: Mapping[str, Any]) -> str:
    annotations = pod["metadata"].get("annotations") or {}
    return str(annotations.get("batch.kubernetes.io/job-completion-index", "0"))


def metric_lines(api: Api, namespace: str, pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the metrics file of the first node held, from the log's end; none where the pod or its log is gone."""
    for pod in pods[:1]:
        with contextlib.suppress(Missing, InvalidConfig):
            text = api.text(
                api.path("pods", namespace, pod["metadata"]["name"], "log"), container=CONTAINER, limitBytes=LARGEST
            )
            return _pods.metric_lines(text)
    return []
