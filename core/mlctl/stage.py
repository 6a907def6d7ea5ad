"""Uploads: content-addressed files, put where a plan wants them before it is submitted.

An address holds a whole file or nothing; what is there is never written again, so that a crash leaves only blobs to
reuse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from . import data
from .runs import Upload

__all__ = ["Tell", "stage"]

log = logging.getLogger(__name__)

_LARGE = 8 << 20  # bytes: what takes long enough to be announced

Tell = Callable[[int, int], None]
"""Gets how many bytes are done, and of how many: those that are there already count as soon as that is seen."""


def stage(put: Callable[[Upload], None], uploads: Iterable[Upload], tell: Tell | None = None) -> None:
    """Has each file put at its address, by the platform's `put`. Raises what that raises.

    Where nobody is told how far that is, the log says it of large files.
    """
    wanted = [
        upload
        for upload in {upload.address: upload for upload in uploads}.values()
        if upload.address != Path(upload.source).absolute().as_uri()  # where it is, is where it is wanted
    ]
    sizes = [path.stat().st_size if (path := Path(upload.source)).exists() else 0 for upload in wanted]
    before, total = 0, sum(sizes)
    for number, (upload, size) in enumerate(zip(wanted, sizes, strict=True), 1):
        level = logging.INFO if size >= _LARGE and tell is None else logging.DEBUG
        log.log(level, "uploading %s, %.1f MB (%d of %d)", Path(upload.source).name, size / 1e6, number, len(wanted))

        def read(count: int, before: int = before, size: int = size) -> None:
            if tell:
                tell(before + min(count, size), total)  # a part that is sent again is read again

        with data.counted(read):
            put(upload)
        read(size)
        before += size
