"""What a job wrote: the files of its log, by the addresses that the run history gives for a while. None of those is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlctl.errors import InvalidConfig
from mlctl.runs import Logs

from .service import Service
from .states import TERMINAL

__all__ = ["read"]

_SIZE = 1 << 20  # bytes that are read at once
_NAME = re.compile(r"(?:user_logs|azureml-logs)/(?:std_log|70_driver_log)[^/]*\.txt\Z")


def read(service: Service, details: Mapping[str, Any], since: str) -> Logs:
    """Lines after the cursor, which has the bytes read of each file; of several files, each line begins with its node's."""
    files = {name: url for name, url in sorted((details.get("logFiles") or {}).items()) if _NAME.search(name)}
    ended = str(details.get("status", "")) in TERMINAL
    seen = _offsets(since)
    lines: list[str] = []
    left = _SIZE
    for name, url in files.items():
        start = seen.get(name, 0)
        content = service.part(str(url), start, left) if left > 0 else b""
        whole = content if ended and len(content) < left else content[: content.rfind(b"\n") + 1]
        if not whole and len(content) == _SIZE:  # a line longer than what is read at once comes in pieces
            whole = content
        if not whole:
            continue
        seen[name] = start + len(whole)
        left -= len(whole)
        label = f"[{name.rpartition('/')[2].removesuffix('.txt')}] " if len(files) > 1 else ""
        lines += [label + line for line in whole.decode("utf-8", "replace").removesuffix("\n").split("\n")]
    return Logs(tuple(lines), json.dumps(seen, sort_keys=True) if lines else since)


def _offsets(cursor: str) -> dict[str, int]:
    try:
        found = json.loads(cursor or "{}")
        return {str(name): int(offset) for name, offset in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise InvalidConfig(f"got {cursor[:80]!r}, which is no cursor of an Azure ML log") from None
