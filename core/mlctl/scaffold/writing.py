"""Files that are written all or none, and never over others."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlctl.errors import InvalidConfig, kind_of

__all__ = ["write_new"]

_WRONG = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL}
_STAGED = ".mlctl-init-"


def write_new(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write `files` (path below `folder`: text) and return their paths, in order.

    All are written beside their place first, so that a full disk is met before anything shows, and then renamed: a new folder
    as a whole, into one that exists file by file. A kill leaves at most a hidden folder named `.mlctl-init-*`, and in a folder
    that existed perhaps some of the files, each whole. Raises InvalidConfig, with nothing written, where one exists already;
    Unavailable where the disk refuses.
    """
    with _translated(folder):
        new = not os.path.lexists(folder)
        if not new:
            _refuse_clashes(folder, files)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
        staged = (folder.parent if new else folder).absolute() / f"{_STAGED}{secrets.token_hex(4)}"
        try:
            for name, text in files.items():
                path = staged / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            if new:
                staged.rename(folder)
            else:
                _move(staged, folder, files)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return [folder / name for name in files]


def _refuse_clashes(folder: Path, files: Mapping[str, str]) -> None:
    if not folder.is_dir():
        raise InvalidConfig(f"{folder}: is not a folder; choose another name")
    for name in files:
        for part in reversed([Path(name), *Path(name).parents][:-1]):  # a/b.txt: a, then a/b.txt
            path = folder / part
            if os.path.lexists(path) and (part == Path(name) or not path.is_dir()):
                raise InvalidConfig(
                    f"{path}: exists already; nothing was written; move it away, or choose another folder"
                )


def _move(staged: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Rename each file to its place; on an error take back those that were."""
    moved: list[Path] = []
    made: list[Path] = []
    try:
        for name in files:
            path = folder / name
            made += [parent for parent in reversed(path.relative_to(folder).parents) if _make(folder / parent)]
            path.touch(exist_ok=False)  # takes the name: a rename would replace what came there since we looked
            moved.append(path)
            (staged / name).replace(path)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for parent in reversed(made):
            with suppress(OSError):
                (folder / parent).rmdir()
        raise


def _make(folder: Path) -> bool:
    """Make one folder; False where it is there."""
    if folder.is_dir():
        return False
    folder.mkdir()
    return True


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = InvalidConfig if error.errno in _WRONG else kind_of(error)
        where = str(error.filename or folder)
        where = str(folder) if _STAGED in where else where
        raise kind(f"{where}: {error.strerror or error}; nothing was written") from None
    except ValueError as error:  # a null byte in the path
        raise InvalidConfig(f"{str(folder)!r}: {error}") from None
