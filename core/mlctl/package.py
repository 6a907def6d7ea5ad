"""A folder of code becomes one archive, and the archive a folder again: code is shipped without building an image.

An archive is named by the SHA-256 of the tar stream inside it, so the same content has the same name on every machine,
and is uploaded once. For that, nothing else may get into the stream: names are sorted by their bytes, times and owners
are zero, the mode keeps only the executable bit. Content is, as in git, files and links: a folder exists because
something is in it, and the empty ones that a change of branch leaves behind change nothing.

Left out are, always, version control, caches, virtual environments and what is likely a secret (`_NEVER`); then what
`.gitignore` and `.mlctlignore` say in the folder and below it, and `.gitignore` above it, up to the repository's root.
The rules are git's own (ignore.py). What belongs to one machine isn't asked: neither the user's global excludes and
`.git/info/exclude`, nor what git tracks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from .errors import InvalidJob, kind_of, one_line
from .ignore import ignored, rules_above, rules_in

if TYPE_CHECKING:
    import gzip
    import tarfile

__all__ = ["Package", "pack", "unpack"]

_CHUNK = 2**18  # bytes read at a time

_NEVER = re.compile(
    r"\.git|\.hg|\.svn"
    r"|\.env(?!\.(example|sample|template)\Z)(\..*)?|\.aws|\.ssh|\.netrc|\.pypirc|\.databrickscfg"
    r"|.*\.(pem|key|p12|pfx)|id_(rsa|ed25519|ecdsa)(?!.*\.pub\Z).*"
    r"|__pycache__|.*\.pyc|\.venv|\.tox|\.(mypy|ruff|pytest)_cache|\.ipynb_checkpoints|node_modules|\.DS_Store",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Package:
    """A packed folder."""

    sha256: str  # of the uncompressed tar stream: independent of zlib's version
    path: Path  # the archive: <store>/<sha256>.tar.gz
    size: int  # bytes of the archive
    files: int  # files and links in it; 0 where everything is left out


def pack(folder: Path, store: Path, *, limit: int = 512 * 2**20) -> Package:
    """Pack `folder` into `store`, which is created if missing, and left out if it lies in the folder.

    A link that points inside the folder stays a link, even to what is left out. An archive that the store has is kept,
    and is young again: `mlctl gc` leaves alone what is about to be used.
    A killed process leaves at most a hidden `.partial` file there, which nothing takes for an archive.

    Raises InvalidJob: no such folder; something unreadable; a file that changes meanwhile; a socket, pipe or device; a
    link that leads outside or back to itself; files of more than `limit` bytes together. Unauthorized, Unavailable:
    the store can't be written.
    """
    with _readable(folder):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise InvalidJob(f"{_shown(folder)}: expected a folder of code to pack, found {found}")
    root = Path(os.path.realpath(folder))
    entries = _entries(root, Path(os.path.realpath(store)), limit)
    partial = store / f".{os.urandom(8).hex()}.partial"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as out:
            sha256 = _write(_tar(root, entries), out)
        archive = store / f"{sha256}.tar.gz"
        if not _renewed(archive):
            partial.replace(archive)
        return Package(sha256, archive, archive.stat().st_size, len(entries))
    except OSError as error:
        raise kind_of(error)(f"{_shown(store)}: a package can't be written here: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _renewed(archive: Path) -> bool:
    """Whether the store has it, as young as a new one from now on. Who removes old ones holds it alone to judge it."""
    try:
        with archive.open("rb") as held:
            with contextlib.suppress(OSError):  # a disk that knows no locks
                fcntl.flock(held, fcntl.LOCK_SH)
            os.utime(archive)
            # Empty is what a power cut leaves of a file that was renamed before its content was on disk.
            return archive.stat().st_size > 0
    except (FileNotFoundError, PermissionError):  # removed meanwhile; or another user's, whose times aren't ours to set
        return False


def unpack(archive: Path, sha256: str, target: Path, *, limit: int = 2 * 2**30) -> None:
    """Unpack `archive` as the folder `target`, whose parents are created: the whole of it, verified, or nothing.

    Files get mode 755 or 644 less the umask, and the current time. Raises InvalidJob: the content isn't whole or isn't
    that of `sha256`, is longer than `limit` bytes, or holds what `pack` never makes: a name or a link that leaves the
    target, a device, a hard link. Unauthorized, Unavailable: the archive can't be read, or the target not written. FileExistsError:
    `target` exists and isn't an empty folder.
    """
    import shutil

    target = target.absolute()
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, "expected nothing here, or an empty folder, to unpack to", str(target))
    partial = target.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        partial.mkdir(parents=True)
        _extract(archive, sha256, partial, limit)
        partial.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # somebody else unpacked there meanwhile
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise kind_of(error)(f"{_shown(archive)}: can't be unpacked to {_shown(target)}: {_reason(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ---- What goes in


class _Entry(NamedTuple):
    name: str  # from the packed folder, with slashes
    info: os.stat_result
    link: str | None  # where a link points


def _entries(root: Path, store: Path, limit: int) -> list[_Entry]:
    """The files and links to pack, sorted by the bytes of their names. `root` and `store` are real paths."""
    with _readable(root):
        base, rules = rules_above(root)
    entries: list[_Entry] = []
    folders = [("", rules)]
    total = 0
    while folders:
        folder, rules = folders.pop()
        listed = _listed(root, folder)
        with _readable(root / folder):
            rules = rules + rules_in(root / folder, base + os.fsencode(folder), (".gitignore", ".mlctlignore"))
        for name, info in listed:
            path = root / name
            is_folder = stat.S_ISDIR(info.st_mode)
            if path == store or _left_out(path) or ignored(base + os.fsencode(name), is_folder, rules):
                continue
            if is_folder:
                folders.append((name + "/", rules))
                continue
            link = None
            if stat.S_ISLNK(info.st_mode):
                link = _link(path, root)
            elif stat.S_ISREG(info.st_mode):
                total += info.st_size
            else:
                raise InvalidJob(
                    f"{_shown(path)}: is a socket, pipe or device, and only files, folders and links can be packed; "
                    "leave it out in .mlctlignore"
                )
            entries.append(_Entry(name, info, link))
            if total > limit:  # before the rest is listed: it may be somebody's whole home
                raise _too_much(root, entries, total, limit)
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _listed(root: Path, folder: str) -> list[tuple[str, os.stat_result]]:
    path = root / folder
    with _readable(path), os.scandir(path) as entries:
        return [(folder + entry.name, entry.stat(follow_symlinks=False)) for entry in entries]


def _left_out(path: Path) -> bool:
    return bool(_NEVER.fullmatch(path.name)) or (path.name == "venv" and os.path.lexists(path / "pyvenv.cfg"))


def _link(path: Path, root: Path) -> str:
    """Where the link `path` points, as it can be said wherever `root` is: as written, or else relative to the link."""
    fix = "put the file itself in its place, or leave it out in .mlctlignore"
    with _readable(path):
        to = path.readlink()
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidJob(f"{_shown(path)}: is a link to {_shown(to)}, which leads back to it; {fix}") from None
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise InvalidJob(f"{_shown(path)}: is a link to {_shown(to)}, outside of the packed folder; {fix}")
    written = os.path.normpath(path.parent.relative_to(root) / to)
    if not to.is_absolute() and Path(written).parts[:1] != ("..",):
        return str(to)
    return os.path.relpath(real, path.parent)


def _too_much(root: Path, entries: list[_Entry], total: int, limit: int) -> InvalidJob:
    files = sorted((entry for entry in entries if entry.link is None), key=lambda entry: -entry.info.st_size)
    largest = ", ".join(f"{_shown(entry.name)} ({entry.info.st_size:,})" for entry in files[:3])
    return InvalidJob(
        f"{_shown(root)}: {total:,} bytes to pack so far, at most {limit:,} are allowed; the largest files: {largest}; "
        "leave out what the job doesn't need in .mlctlignore"
    )


# ---- The archive


def _tar(root: Path, entries: list[_Entry]) -> Iterator[bytes]:
    """The tar stream, in pieces. Raises InvalidJob for what can't be read."""
    import tarfile

    for name, info, link in entries:
        header = tarfile.TarInfo(name)
        header.mode = 0o755 if link is not None or info.st_mode & stat.S_IXUSR else 0o644
        if link is None:
            header.size = info.st_size
        else:
            header.type, header.linkname = tarfile.SYMTYPE, link
        yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if link is None:
            yield from _content(root / name, info)
            yield bytes(-info.st_size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(path: Path, info: os.stat_result) -> Iterator[bytes]:
    left = info.st_size
    with _readable(path), os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk
        now = os.fstat(file.fileno())
    if left or (now.st_size, now.st_mtime_ns) != (info.st_size, info.st_mtime_ns):
        raise InvalidJob(
            f"{_shown(path)}: changed while it was packed; pack again, or leave out in .mlctlignore what is written to"
        )


def _write(stream: Iterable[bytes], out: IO[bytes]) -> str:
    """Compress `stream` to `out`. Returns the SHA-256 of `stream`."""
    import hashlib
    import zlib

    digest = hashlib.sha256()
    squeeze = zlib.compressobj(level=1, wbits=31)  # 31: in a gzip frame, with neither time nor name in it
    for piece in stream:
        digest.update(piece)
        out.write(squeeze.compress(piece))
    out.write(squeeze.flush())
    return digest.hexdigest()


class _Stream:
    """The uncompressed archive, hashed as it is read, and never more than `limit` bytes of it."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        import hashlib

        self.digest = hashlib.sha256()
        self._file, self._limit, self._total = file, limit, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._total += len(data)
        if self._total > self._limit:
            raise ValueError(f"more than {self._limit:,} bytes when uncompressed")
        self.digest.update(data)
        return data


def _extract(archive: Path, sha256: str, folder: Path, limit: int) -> None:
    """Everything in `archive` to the new `folder`. Links are made last: so nothing is ever written through one."""
    import gzip
    import tarfile
    import zlib

    links: list[tuple[Path, str]] = []
    try:
        with gzip.open(archive) as file:
            stream = _Stream(file, limit)
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", encoding="utf-8") as tar:
                for member in tar:
                    _place(tar, member, folder, links)
            while stream.read(_CHUNK):
                pass
        got = stream.digest.hexdigest()
        if got != sha256:
            raise InvalidJob(f"{_shown(archive)}: its content doesn't match its digest: got {got}, expected {sha256}")
        for path, to in links:
            path.symlink_to(to)
        for path, to in links:
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"{one_line(path.name)} is a link to {one_line(to)}, outside of the package")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        twice = one_line(Path(error.filename2 or error.filename).name)
        raise InvalidJob(f"{_shown(archive)}: refused: it holds {twice} twice") from error
    except (EOFError, ValueError, RecursionError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise InvalidJob(
            f"{_shown(archive)}: refused: {error}; get the package again, or pack the code again"
        ) from error


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, links: list[tuple[Path, str]]) -> None:
    """Write `member` below `folder`, or note it in `links`. Raises ValueError for what `pack` never makes."""
    import shutil
    import tarfile

    path = folder / member.name
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise ValueError(f"{one_line(member.name)} is a name outside of the package")
    if hasattr(tarfile, "data_filter"):  # a second opinion, which Pythons of before June 2023 don't have
        tarfile.data_filter(member, str(folder))
    (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
    if member.issym() and member.linkname:
        links.append((path, member.linkname))
    elif member.isreg() and not member.issparse() and (content := tar.extractfile(member)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o755 if member.mode & stat.S_IXUSR else 0o644), "wb") as out:
            shutil.copyfileobj(content, out, _CHUNK)
    elif not member.isdir():
        raise ValueError(f"{one_line(member.name)} is neither a file nor a folder nor a link to one")


# ---- Words


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the operating system says against reading `path` becomes an InvalidJob."""
    try:
        yield
    except OSError as error:
        raise InvalidJob(
            f"{_shown(error.filename or path)}: can't be read: {_reason(error)}; make it readable, or leave it out in .mlctlignore"
        ) from error


def _shown(path: object) -> str:
    """A path as a one-line message can show it."""
    return text if (text := str(path)).isprintable() else repr(text)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
