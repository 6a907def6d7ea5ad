"""Uploads: content-addressed files, put where a plan wants them before it is submitted.

An address holds a whole file or nothing; what is there is never written again, so that a crash leaves only blobs to
reuse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from .runs import Upload

__all__ = ["stage"]

log = logging.getLogger(__name__)

_LARGE = 8 << 20  # bytes: what takes long enough to be announced


def stage(put: Callable[[Upload], None], uploads: Iterable[Upload]) -> None:
    """Has each file put at its address, by the platform's `put`. Raises what that raises."""
    wanted = list({upload.address: upload for upload in uploads}.values())
    for number, upload in enumerate(wanted, 1):
        path = Path(upload.source)
        size = path.stat().st_size if path.exists() else 0
        level = logging.INFO if size >= _LARGE else logging.DEBUG
        log.log(level, "uploading %s, %.1f MB (%d of %d)", path.name, size / 1e6, number, len(wanted))
        put(upload)
