"""Uploads: content-addressed files, put where a plan wants them before it is submitted.

An address holds a whole file or nothing; what is there is never written again, so that a crash leaves only blobs to
reuse.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import MlctlError, Unavailable
from .runs import Upload

__all__ = ["stage"]

log = logging.getLogger(__name__)


def stage(uploads: Iterable[Upload]) -> None:
    """Puts each file at its address, unless one is there. Raises Unavailable where the disk or the network fails."""
    for upload in uploads:
        parts = urlsplit(upload.address)
        if parts.scheme != "file":
            raise MlctlError(f"{upload.address}: no way to write to {parts.scheme}: addresses")
        target = Path(unquote(parts.path))
        if target.exists():
            continue
        log.info("uploading %s", target.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                Path(upload.source).open("rb") as source,
                tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-", ignore_cleanup_errors=True) as folder,
            ):
                draft = Path(folder, target.name)
                with draft.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
                draft.replace(target)
        except OSError as reason:
            raise Unavailable(f"{reason.filename or target}: {reason.strerror or reason}") from None
