"""Files that are whole or not there: a step may be killed at any line."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mlctl import data
from mlctl.errors import InvalidConfig, InvalidJob, refused
from mlctl.job import KINDS

from . import spec

__all__ = ["copy", "stale", "unpacked", "write"]


def stale(folder: Path, image: str = "") -> Mapping[Path, str]:
    """The components that `folder` lacks or has otherwise: path -> text."""
    wanted = {folder / f"{kind}.yaml": spec.text(kind, image) for kind in KINDS}
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text}


def write(path: Path, content: bytes) -> None:
    """Raises Unauthorized where it may not be written, Unavailable where the disk fails."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as reason:
        raise refused(path, reason) from None
    finally:
        draft.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """`source`, a file or folder, at `target`; what an earlier try of the step left there goes.

    Raises InvalidJob for what can't be copied, such as a pipe or a link to nothing; Unauthorized, Unavailable."""
    draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        data.copy(source, draft)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        draft.replace(target)
    except ValueError as reason:
        raise InvalidJob(str(reason)) from None
    except OSError as reason:
        raise refused(reason.filename or target, reason) from None
    finally:
        _remove(draft)


def unpacked(archive: Path) -> Path:
    """The folder that holds what is in `archive`: the same one for the same content, so that paths don't change from
    one try of a step to the next. Raises InvalidConfig for what is no archive, or leads out of its folder."""
    import hashlib
    import tempfile

    try:
        with archive.open("rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        target = Path(tempfile.gettempdir(), f"mlctl-project-{os.getuid()}", digest)
        if target.is_dir():
            return target
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    except OSError as reason:
        raise refused(f"project: {archive}", reason) from None
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(draft, filter="data")
        if not target.is_dir():
            draft.rename(target)
    except (tarfile.TarError, EOFError) as reason:
        raise InvalidConfig(
            f"project: {archive}: expected a folder or a .tar.gz of one: {str(reason).partition(':')[0]}"
        ) from None
    except OSError as reason:
        if not target.is_dir():  # else another step of this machine was faster by a moment
            raise refused(f"project: {archive}", reason) from None
    finally:
        _remove(draft)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
