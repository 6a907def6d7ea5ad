"""Where data is: addresses, what of this machine's has to be uploaded, and how a file is written so that it is whole or
not there.

An address is a path, or a URI. What has no way of its own in a platform is written through fsspec, which is imported when it
is first needed; `http:` and `https:` are read by platforms, and never written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from .errors import InvalidConfig, InvalidJob, Unsupported, refused
from .job import Job
from .runs import Upload

__all__ = ["SCHEMES", "Local", "copy", "counted", "local_inputs", "opened", "output", "put", "reached", "scheme"]

SCHEMES: Mapping[str, str] = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "azureml": "azureml-fsspec",
    "dbfs": "fsspec",
}
"""Scheme of a URI that can be written to -> the package that fsspec does it with."""


def scheme(address: str) -> str:
    """`s3` of `s3://bucket/x`; `file` of a path of this machine; `volumes` of `/Volumes/...`, which is Databricks'."""
    if "://" in address:
        return address.partition("://")[0].lower()
    return "volumes" if address.startswith("/Volumes/") else "file"


def reached(job: Job, ways: Mapping[str, str], platform: str) -> dict[str, str]:
    """How the platform gets each input: `ways` has its word (mount, download, upload) for each scheme that it reaches.

    Raises Unsupported, naming the input, for a scheme it has no way to.
    """
    found = {}
    for name, each in job.inputs.items():
        way = ways.get(scheme(each.uri))
        if way is None:
            text = f"got '{each.uri}', and {platform} reaches {', '.join(sorted(ways))} only; copy it to one of those"
            raise Unsupported(str(job.fail(("inputs", name), text)))
        found[name] = way
    return found


@dataclass(frozen=True)
class Local:
    """A folder of this machine, or a `single` file: its digest, and (name below the folder, or its own; sha256) of each."""

    path: str
    sha256: str
    files: tuple[tuple[str, str], ...]
    single: bool = False

    @classmethod
    def of(cls, path: Path) -> Local:
        """Reads all of it, links followed. Raises InvalidJob for what isn't there, or is neither files nor folders;
        Unauthorized, Unavailable for what can't be read."""
        try:
            if not os.path.lexists(path):
                raise InvalidJob(f"{path}: no such file or folder")
            names = sorted(name for name, found in _within(str(path)) if stat.S_ISREG(found.st_mode))
            files = tuple((name or path.name, _sha256(path / name)) for name in names)
            single = names == [""]
        except ValueError as reason:
            raise InvalidJob(str(reason)) from None
        except OSError as reason:
            raise refused(reason.filename or path, reason) from None
        whole = hashlib.sha256(
            "".join(f"{name}\0{digest}\n" for name, digest in files).encode("utf-8", "surrogateescape")
        )
        return cls(str(path), whole.hexdigest(), files, single)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Local:
        """What `to_json` gave, read back from a plan's facts."""
        files = tuple((name, digest) for name, digest in data["files"])
        return cls(data["path"], data["sha256"], files, data["single"])

    def to_json(self) -> dict[str, Any]:
        """Plain data, for facts."""
        return {**vars(self), "files": [list(each) for each in self.files]}

    def source(self, name: str) -> str:
        """The path of its file `name`."""
        return self.path if self.single else str(Path(self.path, name))

    def uploads(self, below: str) -> tuple[Upload, ...]:
        """Its files, below `below`/sha256: the same content has the same addresses, and is uploaded once."""
        return tuple(
            Upload(self.source(name), digest, f"{below}/{self.sha256}/{quote(name)}") for name, digest in self.files
        )

    def address(self, below: str) -> str:
        """Where it is once the uploads are done: of the one file, or of the folder."""
        return f"{below}/{self.sha256}/{quote(self.files[0][0])}" if self.single else f"{below}/{self.sha256}"


def local_inputs(job: Job, empty: str = "") -> dict[str, dict[str, Any]]:
    """Input -> `Local.to_json` of those that are on this machine: for `resolve`, as part of the facts.

    Raises InvalidJob for one that isn't there, and for an empty folder where `empty` says that the platform takes none.
    """
    found = {}
    for name, each in job.inputs.items():
        if scheme(each.uri) == "file":
            try:
                local = Local.of(Path(each.uri))
            except InvalidJob as error:
                raise job.fail(("inputs", name), str(error)) from None
            if empty and not local.files:
                raise job.fail(("inputs", name), f"{local.path}: is empty, and {empty}")
            found[name] = local.to_json()
    return found


def output(job: Job, name: str, run: str, own: str) -> str:
    """The address of an output of the run called `run`: below the output's own `uri`, else below the run's `own` folder."""
    uri = job.outputs[name].uri
    return f"{uri.rstrip('/')}/{run}/{name}" if uri else f"{own}/{name}"


_read: ContextVar[Callable[[int], None]] = ContextVar("read", default=lambda count: None)


@contextlib.contextmanager
def counted(tell: Callable[[int], None]) -> Iterator[None]:
    """Within, whoever reads a file that is `opened` has `tell` called with the bytes read of it so far."""
    token = _read.set(tell)
    try:
        yield
    finally:
        _read.reset(token)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file that an upload sends, to be read by whoever sends it: what is read is `counted`. Raises OSError."""
    with io.BufferedReader(_Counted(path, _read.get()), 1 << 20) as stream:
        yield stream


class _Counted(io.FileIO):
    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
        super().__init__(path)
        self._tell, self._count = tell, 0

    def readinto(self, buffer: Any) -> int:
        """As FileIO's: all that is read of a BufferedReader comes this way, but for `readall`."""
        count = super().readinto(buffer)
        self._add(count)
        return count

    def readall(self) -> bytes:
        """As FileIO's."""
        content = super().readall()
        self._add(len(content))
        return content

    def _add(self, count: int) -> None:
        if count:
            self._count += count
            self._tell(self._count)


def put(upload: Upload) -> None:
    """Puts a file at its address, unless one is there: whole, or not at all.

    Raises InvalidConfig where a package is missing that writes there, or nothing does; Unauthorized where it may not be written;
    Unavailable where the disk or the network fails.
    """
    if scheme(upload.address) == "file":
        _put_file(Path(upload.source), Path(unquote(urlsplit(upload.address).path)))
        return
    files, path = _remote(upload.address)
    try:
        if not files.exists(path):
            from fsspec.callbacks import Callback

            tell, size = _read.get(), Path(upload.source).stat().st_size
            follow = Callback(hooks={"read": lambda size, value, **known: tell(value)})
            follow.set_size(size)
            files.put_file(upload.source, path, callback=follow)  # of an object store: there once it is whole
    except OSError as reason:
        raise refused(upload.address, reason) from None


def _remote(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    kind = scheme(address)
    if kind not in SCHEMES:
        raise InvalidConfig(f"{address}: got {kind}:, and what can be written to is a path or {', '.join(SCHEMES)}")
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(address)
    except ImportError:
        raise InvalidConfig(f"{address}: needs fsspec and {SCHEMES[kind]}; install them beside mlctl") from None
    return files, str(path)


def copy(source: Path, target: Path) -> None:
    """Copies a file, or a folder with all that is in it, to where nothing is yet; links are followed, and who owns the copy may
    remove it. Raises OSError, and ValueError for what could never be copied, whoever tries again."""
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):  # loops of links, too
        raise ValueError(f"{source}: its copy would be in it, at {target}")
    folders = []
    into = os.stat(target.parent)  # noqa: PTH116
    for name, found in _within(str(source), above=((into.st_dev, into.st_ino),)):  # a link may lead there
        made = str(target / name)
        if stat.S_ISREG(found.st_mode):
            shutil.copy2(source / name, made)
        else:
            os.mkdir(made)  # noqa: PTH102 - no Path for each of a million files
            folders.append((str(source / name), made, stat.S_IMODE(found.st_mode) | stat.S_IRWXU))
    for here, made, mode in reversed(folders):
        shutil.copystat(here, made)
        os.chmod(made, mode)  # noqa: PTH101


def _within(path: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Of a file or folder: itself, called "", and all files and folders in it, by their names below it, each after its folder;
    links are followed.

    Raises OSError; ValueError for what has no end, or never was there.
    """
    left = [("", above)]  # no recursion: folders may be deeper than Python goes
    while left:
        name, above = left.pop()
        at = f"{path}/{name}" if name else path
        try:
            found = os.stat(at)  # noqa: PTH116
            folder = stat.S_ISDIR(found.st_mode)
            names = sorted(os.listdir(at), reverse=True) if folder else []  # noqa: PTH208
        except OSError as reason:
            if reason.errno == errno.ELOOP:
                raise ValueError(f"{at}: {reason.strerror}") from None
            gone = reason.errno in (errno.ENOENT, errno.ENOTDIR)
            if gone and os.path.islink(at):  # noqa: PTH114 - else it was removed just now
                raise ValueError(f"{at}: is a link to nothing") from None
            raise
        if not folder and not stat.S_ISREG(found.st_mode):  # what a pipe or a device holds may have no end
            raise ValueError(f"{at}: is neither a file nor a folder")
        here = found.st_dev, found.st_ino
        if here in above:
            raise ValueError(f"{at}: is a folder within itself")
        yield name, found
        below = (*above, here)
        left += [(f"{name}/{each}" if name else each, below) for each in names]


def _put_file(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            opened(source) as stream,
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-", ignore_cleanup_errors=True) as folder,
        ):
            draft = Path(folder, target.name)
            with draft.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
            draft.replace(target)
    except OSError as reason:
        raise refused(reason.filename or target, reason) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
