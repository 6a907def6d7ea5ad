"""Packing is reproducible and leaves out what git would; unpacking is all or nothing, and never writes elsewhere."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mlctl.errors import InvalidJob, Unavailable
from mlctl.package import Package, pack, unpack

# Bytes of a file, or where a link points.
Content = bytes | Path


def write(folder: Path, tree: dict[str, Content]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, tuple[Content, bool]]:
    """Each file and link below `folder`: its content, and whether it is executable."""
    found: dict[str, tuple[Content, bool]] = {}
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in [*folders, *files]):
            if path.is_symlink():
                found[path.relative_to(folder).as_posix()] = (path.readlink(), False)
            elif path.is_file():
                found[path.relative_to(folder).as_posix()] = (path.read_bytes(), os.access(path, os.X_OK))
    return found


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(package: Package) -> set[str]:
    with tarfile.open(package.path) as tar:
        return set(tar.getnames())


def packed(folder: Path, tree: dict[str, Content]) -> set[str]:
    return names(pack(write(folder / "code", tree), folder / "store"))


def refused(run: Callable[[], object], *words: str) -> None:
    """`run` raises an InvalidJob of one line that has all of `words` in it."""
    with pytest.raises(InvalidJob) as raised:
        run()
    assert str(raised.value).isprintable()
    for word in words:
        assert word in str(raised.value)


TREE: dict[str, Content] = {
    "train.py": b"print('hi')\n",
    "bin/run": b"#!/bin/sh\n",
    "lib/mod\u00e8le.py": b"x = 1\n",
    "lib/latest": Path("../train.py"),
    f"{'deep/' * 60}{'n' * 120}.py": b"",
    "a-b": b"-",
    "a/b": b"/",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = write(tmp_path / "tree", TREE)
    (folder / "bin/run").chmod(0o755)
    return folder


# ---- The same content is the same package


def test_golden_digest(tree: Path, tmp_path: Path) -> None:
    """A change of this digest is a change of format: every package that anybody has would be made, and uploaded, again."""
    package = pack(tree, tmp_path / "store")
    assert package.sha256 == "d65ff815cb77251f638e46f0c1ccc410a603765db9155c16dd1210b8b5ffa1b8"
    assert package.path == tmp_path / "store" / f"{package.sha256}.tar.gz"
    assert package.size == package.path.stat().st_size
    assert package.files == len(TREE)
    assert hashlib.sha256(gzip.decompress(package.path.read_bytes())).hexdigest() == package.sha256


def test_only_content_counts(tree: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        other = write(tmp_path / "a'; echo foo", dict(reversed(TREE.items())))
    finally:
        os.umask(before)
    (other / "bin/run").chmod(0o700)
    (other / "empty/folder").mkdir(parents=True)
    os.utime(other / "train.py", (1, 1))
    if os.getuid() == 0:
        os.chown(other / "train.py", 12, 34)
    assert pack(other, tmp_path / "a").sha256 == pack(tree, tmp_path / "b").sha256


@pytest.mark.parametrize("change", ["content", "name", "mode", "link"])
def test_every_content_counts(change: str, tree: Path, tmp_path: Path) -> None:
    before = pack(tree, tmp_path / "store")
    if change == "content":
        (tree / "train.py").write_bytes(b"print('ho')\n")
    elif change == "name":
        (tree / "train.py").rename(tree / "Train.py")
    elif change == "mode":
        (tree / "train.py").chmod(0o755)
    else:
        (tree / "lib/latest").unlink()
        (tree / "lib/latest").symlink_to("../bin/run")
    assert pack(tree, tmp_path / "store").sha256 != before.sha256


def test_the_frame_has_no_time_and_no_name(tree: Path, tmp_path: Path) -> None:
    head = pack(tree, tmp_path).path.read_bytes()[:10]
    assert head[:8] == b"\x1f\x8b\x08\x00" + bytes(4)


def test_a_second_time_keeps_the_archive(tree: Path, tmp_path: Path) -> None:
    first = pack(tree, tmp_path / "store")
    inode = first.path.stat().st_ino
    assert pack(tree, tmp_path / "store") == first
    assert first.path.stat().st_ino == inode
    first.path.write_bytes(b"")
    assert pack(tree, tmp_path / "store") == first, "an empty archive is replaced"
    assert listing(tmp_path / "store") == [first.path.name]


def test_a_store_in_the_folder_is_not_packed(tree: Path, tmp_path: Path) -> None:
    outside = pack(tree, tmp_path / "store")
    for _ in range(2):
        assert pack(tree, tree / "build/store").sha256 == outside.sha256


# ---- What is left out

GIT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *words], env=GIT, capture_output=True, check=False)


def git_lists(folder: Path) -> set[str]:
    done = git(folder, "ls-files", "-co", "--exclude-standard", "-z")
    assert done.returncode == 0, done.stderr
    return {name.decode() for name in done.stdout.split(b"\0") if name}


part = st.sampled_from(["a", "b", "ab", "a.py", "b.log", "a b", "\u00e9", "[a]", "-"])
glob = part | st.sampled_from(
    [
        "*",
        "**",
        "***",
        "?",
        "*.py",
        "*.log",
        "a*",
        "*b",
        "a**",
        "\u00e9?",
        "\\[a]",
        "a\\",
        "[ab]",
        "[!a]",
        "[z-a]",
        "[[:alpha:]]*",
    ]
)
line = st.one_of(
    st.builds(
        lambda sign, start, parts, end: sign + start + "/".join(parts) + end,
        st.sampled_from(["", "!"]),
        st.sampled_from(["", "/", "**/"]),
        st.lists(glob, min_size=1, max_size=3),
        st.sampled_from(["", "/", "/**", " ", "\\ ", "\r"]),
    ),
    st.text("ab*?/!\\[]-^. #\u00e9", max_size=7),
)
paths = st.lists(st.lists(part, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)
rules = st.lists(st.tuples(st.integers(0, 30), st.lists(line, min_size=1, max_size=4)), max_size=4)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(paths, rules, st.booleans(), st.integers(0, 4))
@example(["a.py", "a/a.py", "a/b.log"], [(0, ["*", "!*/", "!*.py"])], False, 0)
@example(["a/b", "a/a/b"], [(0, ["a/**", "!a/b"])], False, 0)
@example(["a/b"], [(0, ["a/", "!a/b"])], False, 0)
@example(["b/a.py", "b/a/b"], [(0, ["*.py", "/a/a"]), (1, ["!a.py"])], True, 1)
def test_leaves_out_what_git_does(
    files: list[str], ignores: list[tuple[int, list[str]]], below: bool, cut: int
) -> None:
    """Rules in any folders, some above the packed one; the last `cut` lines in .mlctlignore, which git sees in .gitignore."""
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name, "git")
        folder = repository / "a" if below else repository
        for path in map(folder.joinpath, files):
            with contextlib.suppress(OSError):  # a file where another needs a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        folder.mkdir(parents=True, exist_ok=True)
        git(repository, "init", "-q", "--template=")
        shutil.copytree(repository, ours := Path(name, "ours"))
        inside = sorted(path for path in repository.rglob("*") if path.is_dir() and ".git" not in path.parts)
        for number, lines in ignores:
            place = [repository, *inside][number % (len(inside) + 1)].relative_to(repository)
            split = len(lines) - cut if (repository / place).is_relative_to(folder) else len(lines)
            for root, file, some in [
                (repository, ".gitignore", lines),
                (ours, ".gitignore", lines[: max(split, 0)]),
                (ours, ".mlctlignore", lines[max(split, 0) :]),
            ]:
                (root / place / file).write_bytes("\n".join(some).encode())
        assume(not below or git(repository, "check-ignore", "-q", "a").returncode == 1)
        package = pack(ours / folder.relative_to(repository), Path(name, "store"))
        ignore_files = re.compile(r"(.*/)?\.(git|mlctl)ignore")
        assert {name for name in names(package) if not ignore_files.fullmatch(name)} == {
            name for name in git_lists(folder) if not ignore_files.fullmatch(name)
        }


def test_ignore_files_as_git_reads_them(tmp_path: Path) -> None:
    """Bytes, a byte order mark, both ends of line, spaces, comments; and no ignore file through a link."""
    lines = b"\xef\xbb\xbfbom\r\nspaces  \nkept\\ \ntab\t\n   \n\n#hash\n\\#sign\n\\!bang\n/a.b\nc.d/e\n\xe9\nform\x0cfeed\nlast\r"
    code = write(
        tmp_path / "git",
        {
            ".gitignore": lines,
            "linked/.gitignore": Path("../rules"),
            "linked/x": b"",
            "rules": b"x\n",
            **dict.fromkeys(["bom", "spaces", "kept", "kept ", "tab", "#hash", "#sign", "!bang", "last", " "], b""),
            **dict.fromkeys(["a.b", "a-b", "c.d/e", "c-d/e", "sub/a.b", "sub/c.d/e", "\u00e9", "form", "feed"], b""),
        },
    )
    git(code, "init", "-q", "--template=")
    assert names(pack(code, tmp_path / "store")) == git_lists(code)


def test_bracket_expressions_as_git_reads_them(tmp_path: Path) -> None:
    signs = "ab0A-]^!\\[: _\u00e9#"
    write(tmp_path / "git", {name: b"" for sign in signs for name in [sign, *(sign + other for other in signs)]})
    git(tmp_path / "git", "init", "-q", "--template=")
    closed = [
        "[]-a]*",
        "[!]]",
        "[^]]",
        "[z-a]?",
        "[a-]",
        "[--0]*",
        r"[\]-a]?",
        "[[:digit:]a]?",
        "[[-a]*",
        "[a-[:digit:]]",
    ]
    for pattern in [*closed, "[!]", "[^]*", r"[a\]*", "[[:nope:]a]", "[[:digit:]"]:
        (tmp_path / "git/.gitignore").write_text(pattern)
        assert names(pack(tmp_path / "git", tmp_path / "store")) == git_lists(tmp_path / "git"), pattern


def test_mlctlignore_has_the_last_word_in_its_folder(tmp_path: Path) -> None:
    assert packed(
        tmp_path,
        {
            ".gitignore": b"*.bin\ndata/\n",
            ".mlctlignore": b"!model.bin\n*.md\n",
            "model.bin": b"",
            "other.bin": b"",
            "README.md": b"",
            "data/x": b"",
            "sub/.gitignore": b"!*.md\n",
            "sub/README.md": b"",
        },
    ) == {".gitignore", ".mlctlignore", "model.bin", "sub/.gitignore", "sub/README.md"}


def test_secrets_and_caches_are_never_packed(tmp_path: Path) -> None:
    never = [
        *(
            ".git/config",
            ".hg/x",
            ".svn/x",
            ".env",
            ".env.prod",
            "a/.env.local",
            ".env.example.bak",
            "tls.pem",
            "TLS.KEY",
        ),
        *("id_rsa", "id_rsa.old", "id_ed25519", "id_ecdsa_sk", "a.p12", "a.pfx", ".aws/credentials", ".ssh/config"),
        *(
            ".netrc",
            ".pypirc",
            ".databrickscfg",
            "a/__pycache__/b.pyc",
            "c.pyc",
            ".venv/x",
            "venv/pyvenv.cfg",
            "venv/x",
        ),
        *(".mypy_cache/x", ".ruff_cache/x", ".pytest_cache/x", ".ipynb_checkpoints/x", ".DS_Store", ".tox/x"),
        "node_modules/x",
    ]
    stays = ["id_rsa.pub", ".env.example", ".env.sample", "a/.env.template", "keys.py", "environment.py", "lib/venv/x"]
    assert packed(
        tmp_path, {**dict.fromkeys([*never, *stays], b""), ".mlctlignore": b"!*\n!.env\n!.git/\n!**/id_rsa\n"}
    ) == {*stays, ".mlctlignore"}


def test_an_ignored_folder_is_not_entered(tmp_path: Path) -> None:
    """Nor judged: what can't be packed may lie there."""
    code = write(tmp_path / "code", {".gitignore": b"data/\nsock\n", "data/out": Path("/etc"), "x": b""})
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(code / "data/sock"))
        assert names(pack(code, tmp_path / "store")) == {".gitignore", "x"}


def test_a_folder_that_git_ignores_is_packed_when_named(tmp_path: Path) -> None:
    write(tmp_path / "r", {".gitignore": b"/build/\n*.log\n", "build/x": b"", "build/y.log": b"", ".git/HEAD": b""})
    assert names(pack(tmp_path / "r/build", tmp_path / "store")) == {"x"}
    shutil.rmtree(tmp_path / "r/.git")
    assert names(pack(tmp_path / "r/build", tmp_path / "store")) == {"x", "y.log"}, "no repository, no rules from above"


# ---- Links


def test_links_inside_stay_links(tmp_path: Path) -> None:
    code = write(
        tmp_path / "code", {"a/b/file": b"1", "a/up": Path("b/../b/file"), "here": Path(), "gone": Path("later")}
    )
    (code / "a/absolute").symlink_to(code / "a/b/file")
    (code / "a/around").symlink_to("../../code/a/b")
    (code / "a/chain").symlink_to("absolute")
    package = pack(code, tmp_path / "store")
    shutil.rmtree(code)
    unpack(package.path, package.sha256, tmp_path / "out")
    links = {name: str(content) for name, (content, _) in read(tmp_path / "out").items() if isinstance(content, Path)}
    assert links == {
        "a/up": "b/../b/file",
        "here": ".",
        "gone": "later",
        "a/absolute": "b/file",
        "a/around": "b",
        "a/chain": "absolute",
    }
    assert (tmp_path / "out/a/chain").read_bytes() == (tmp_path / "out/a/up").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({"out": "/etc/passwd"}, ["out: is a link to /etc/passwd, outside"]),
        ({"a/out": "../../beside"}, ["a/out: is a link to ../../beside, outside"]),
        ({"x": "inner/../../beside"}, ["x: is a link to"]),
        ({"one": "two", "two": "one"}, ["leads back to it"]),
        ({"self": "self"}, ["self: is a link to self, which leads back to it"]),
    ],
)
def test_links_that_leave_or_turn(links: dict[str, str], words: list[str], tmp_path: Path) -> None:
    code = write(tmp_path / "code", {"inner/x": b"", **{name: Path(to) for name, to in links.items()}})
    refused(lambda: pack(code, tmp_path / "store"), ".mlctlignore", *words)
    (code / ".mlctlignore").write_text("".join(f"/{name}\n" for name in links))
    assert names(pack(code, tmp_path / "store")) == {".mlctlignore", "inner/x"}


# ---- What can't be packed


def test_special_files(tmp_path: Path) -> None:
    os.mkfifo(write(tmp_path / "code", {}) / "two\nlines")
    refused(
        lambda: pack(tmp_path / "code", tmp_path / "store"), "two\\nlines", "socket, pipe or device", ".mlctlignore"
    )


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(lambda: pack(tmp_path / "absent", tmp_path / "store"), "absent: expected a folder", "nothing")
    refused(lambda: pack(tmp_path / "file", tmp_path / "store"), "file: expected a folder", "found a file")
    assert not (tmp_path / "store").exists()


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody's who isn't root, as whom the test runs."""
    with tempfile.TemporaryDirectory() as name:
        root = os.geteuid() == 0
        pack(write(Path(name, "warm"), {"up": b""}), Path(name, "store"))  # imports what this user couldn't
        if root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("name", ["secret.py", "folder", ".gitignore"])
def test_unreadable(name: str, unprivileged: Path) -> None:
    code = write(unprivileged / "code", {"folder/x": b"", "secret.py": b"1", ".gitignore": b""})
    (code / name).chmod(0)
    try:
        refused(lambda: pack(code, unprivileged / "store2"), f"{name}: can't be read: Permission denied")
    finally:
        (code / name).chmod(0o700)
    assert not list(unprivileged.glob("store2/*"))


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone", "link"])
def test_a_file_that_changes_meanwhile(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = write(tmp_path / "code", {"data": b"12345678"})
    really_open = os.open

    def open_after_change(path: Path, *rest: int) -> int:
        if change in ("gone", "link"):
            path.rename(tmp_path / "moved")
        if change == "link":
            path.symlink_to(tmp_path / "moved")
        if change in ("longer", "shorter", "other"):
            path.write_bytes({"longer": b"123456789", "shorter": b"1", "other": b"abcdefgh"}[change])
            os.utime(path, (1, 1))
        return really_open(path, *rest)

    monkeypatch.setattr(os, "open", open_after_change)
    refused(lambda: pack(code, tmp_path / "store"), "code/data: ")
    assert not list((tmp_path / "store").iterdir())


def test_too_much(tmp_path: Path) -> None:
    code = write(
        tmp_path / "code", {f"{name}.bin": bytes(size) for name, size in zip("abcd", [1, 400, 3000, 20], strict=True)}
    )
    refused(lambda: pack(code, tmp_path / "store", limit=3420), "3,421 bytes", "3,420", ".mlctlignore")
    refused(lambda: pack(code, tmp_path / "store", limit=3420), "c.bin (3,000), b.bin (400), d.bin (20);")
    assert pack(code, tmp_path / "store", limit=3421).files == 4


# ---- Half-done work


def test_killed_in_the_middle(tree: Path, tmp_path: Path) -> None:
    kill = f"""
import os, sys
from pathlib import Path
from mlctl.package import pack
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("train.py") and os.kill(os.getpid(), 9))
pack(Path({str(tree)!r}), Path({str(tmp_path / "store")!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", kill], env=environment, check=False).returncode == -signal.SIGKILL
    (left,) = listing(tmp_path / "store")
    assert left.startswith(".") and left.endswith(".partial")
    assert pack(tree, tmp_path / "store").path.exists()


def test_the_store_cannot_be_made(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store in (tmp_path / "file", tmp_path / "file/store"):
        with pytest.raises(Unavailable, match=re.escape(str(store))):
            pack(tree, store)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: Python ignores the signal, and the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_disk_is_full(tmp_path: Path) -> None:
    code = write(tmp_path / "code", {"noise": os.urandom(2**19)})
    with files_of_at_most(2**17), pytest.raises(Unavailable, match=f"store: .*{os.strerror(errno.EFBIG)}"):
        pack(code, tmp_path / "store")
    assert listing(tmp_path / "store") == []
    package = pack(code, tmp_path / "store")
    with files_of_at_most(2**17), pytest.raises(Unavailable, match=f"out: .*{os.strerror(errno.EFBIG)}"):
        unpack(package.path, package.sha256, tmp_path / "out")
    assert listing(tmp_path) == ["code", "store"]


# ---- There and back

left_out = re.compile(r"\.|id_|__pycache__\Z|node_modules\Z|.*\.(pem|key|p12|pfx|pyc)\Z", re.IGNORECASE | re.DOTALL)
name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=50).filter(
    lambda text: len(text.encode()) < 250 and not left_out.match(text)
)
files = st.dictionaries(
    st.lists(name, min_size=1, max_size=4).map("/".join), st.tuples(st.binary(max_size=1500), st.booleans()), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(files, st.lists(st.tuples(name, st.integers(0, 7)), max_size=3))
def test_there_and_back(files: dict[str, tuple[bytes, bool]], links: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary, "code")
        code.mkdir()
        for path, (content, executable) in files.items():
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                write(code, {path: content})
                (code / path).chmod(0o755 if executable else 0o644)
        for path, number in links:
            with contextlib.suppress(FileExistsError):
                (code / path).symlink_to([*files, "nowhere"][number % (len(files) + 1)])
        package = pack(code, Path(temporary, "store"))
        unpack(package.path, package.sha256, Path(temporary, "out"))
        assert read(Path(temporary, "out")) == read(code)
        assert package.files == len(read(code))
        assert pack(Path(temporary, "out"), Path(temporary, "store")) == package


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).mkdir()
    except OSError:
        pytest.skip("this file system wants Unicode")
    code = write(tmp_path / os.fsdecode(b"\xff"), {os.fsdecode(b"\xfe\xe9"): b"x"})
    package = pack(code, tmp_path / "store")
    unpack(package.path, package.sha256, tmp_path / "out")
    assert read(tmp_path / "out") == read(code)


def test_unpacks_into_nothing_or_an_empty_folder(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pack(tree, tmp_path / "store")
    monkeypatch.chdir(write(tmp_path / "a'; echo foo", {"full/x": b"", "file": b"", "link": Path("void")}))
    Path("empty").mkdir()
    Path("void").mkdir()
    for target in ("new/er", "empty", "../up"):
        unpack(package.path, package.sha256, Path(target))
        assert read(Path(target)) == read(tree)
    for target in ("full", "file", "link", "new/er"):
        before = read(Path())
        with pytest.raises(FileExistsError, match=target):
            unpack(package.path, package.sha256, Path(target))
        assert read(Path()) == before


def test_somebody_else_unpacks_there_first(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pack(tree, tmp_path / "store")
    really_rename = Path.rename

    def rename_too_late(self: Path, target: Path) -> Path:
        write(target, {"theirs": b""})
        return really_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_too_late)
    with pytest.raises(FileExistsError):
        unpack(package.path, package.sha256, tmp_path / "out")
    assert listing(tmp_path) == ["out", "store", "tree"]
    assert listing(tmp_path / "out") == ["theirs"]


def test_modes_follow_the_umask(tree: Path, tmp_path: Path) -> None:
    package = pack(tree, tmp_path / "store")
    before = os.umask(0o027)
    try:
        unpack(package.path, package.sha256, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "out" / name).stat().st_mode & 0o7777 for name in ("bin", "bin/run", "train.py")}
    assert modes == {"bin": 0o750, "bin/run": 0o750, "train.py": 0o640}
    assert time.time() - (tmp_path / "out/train.py").stat().st_mtime < 60, "a zip of it would refuse a file of 1970"


# ---- Hostile archives


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **fields: object) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, link, len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "big", "GNU.sparse.realsize": str(2**50)}
SYMLINK, HARDLINK = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "parent": [member("../x", b"!")],
    "parent inside": [member("a/../../x", b"!")],
    "absolute": [member("/tmp/mlctl-hostile", b"!")],
    "link to a folder, file through it": [member("d", kind=SYMLINK, link="/tmp"), member("d/x", b"!")],
    "file through a link that comes later": [member("d/x", b"!"), member("d", kind=SYMLINK, link="..")],
    "link through a link": [member("d", kind=SYMLINK, link=".."), member("d/x", kind=SYMLINK, link="y")],
    "link outside": [member("l", kind=SYMLINK, link="../../etc/passwd")],
    "absolute link": [member("l", kind=SYMLINK, link="/etc/passwd")],
    "links that are outside only together": [
        member("a/b/d", kind=SYMLINK, link="../.."),
        member("l", kind=SYMLINK, link="a/b/d/../store"),
    ],
    "link to nothing": [member("l", kind=SYMLINK)],
    "hard link outside": [member("h", kind=HARDLINK, link="../../etc/passwd")],
    "hard link inside": [member("x", b"!"), member("h", kind=HARDLINK, link="x")],
    "device": [member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("pipe", kind=tarfile.FIFOTYPE)],
    "twice": [member("x", b"1"), member("x", b"2")],
    "file as folder": [member("x", b"1"), member("x/y", b"2")],
    "zero in a name": [member("x", pax_headers={"path": "x\0y"})],
    "sparse, a petabyte": [member("s", b"1\n0\n1\n".ljust(512, b"\0"), pax_headers=SPARSE)],
    "no tar at all": [b"x" * 5000],
    "nothing": [b""],
}


def archive(path: Path, *members: bytes) -> tuple[Path, str]:
    content = b"".join([*members, bytes(1024)]) if any(members) else b""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))
    return path, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("filtered", [True, False], ids=["with tarfile's filter", "without"])
@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives(
    members: list[bytes], filtered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filtered:  # as in a Python that has none
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    path, sha256 = archive(tmp_path / "store/x.tar.gz", *members)
    refused(lambda: unpack(path, sha256, tmp_path / "out"), str(path))
    assert listing(tmp_path) == ["store"]
    assert listing(tmp_path / "store") == ["x.tar.gz"]
    assert not Path("/tmp/mlctl-hostile").exists()


@pytest.mark.parametrize(
    "damage", ["short", "shorter", "garbage", "other content", "second frame", "flipped", "digest"]
)
def test_damaged_archives(damage: str, tree: Path, tmp_path: Path) -> None:
    package = pack(tree, tmp_path / "store")
    sha256, data = package.sha256, package.path.read_bytes()
    package.path.write_bytes(
        {
            "short": data[:-5],
            "shorter": data[:200],
            "garbage": data + b"garbage",
            "other content": gzip.compress(gzip.decompress(data) + b"x"),
            "second frame": data + gzip.compress(b"x"),
            "flipped": data[:100] + bytes([data[100] ^ 1]) + data[101:],
            "digest": data,
        }[damage]
    )
    refused(
        lambda: unpack(package.path, sha256 if damage != "digest" else "0" * 64, tmp_path / "out"), str(package.path)
    )
    assert listing(tmp_path) == ["store", "tree"]


def test_a_digest_that_does_not_match_is_named(tree: Path, tmp_path: Path) -> None:
    package = pack(tree, tmp_path / "store")
    refused(lambda: unpack(package.path, "0" * 64, tmp_path / "out"), "content doesn't match", package.sha256, "0" * 64)


def test_a_bomb_is_bounded(tmp_path: Path) -> None:
    path, sha256 = archive(tmp_path / "store/bomb.tar.gz", member("zeros", bytes(2**22)))
    refused(lambda: unpack(path, sha256, tmp_path / "out", limit=2**20), "more than 1,048,576 bytes")
    assert listing(tmp_path) == ["store"]
    unpack(path, sha256, tmp_path / "out", limit=2**23)
    assert (tmp_path / "out/zeros").stat().st_size == 2**22


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"absent\.tar\.gz"):
        unpack(tmp_path / "absent.tar.gz", "0" * 64, tmp_path / "out")
    assert listing(tmp_path) == []


def test_set_user_id_is_dropped(tmp_path: Path) -> None:
    path, sha256 = archive(tmp_path / "store/x.tar.gz", member("run", mode=0o6777))
    unpack(path, sha256, tmp_path / "out")
    assert (tmp_path / "out/run").stat().st_mode & 0o7022 == 0


def test_other_programs_read_it(tree: Path, tmp_path: Path) -> None:
    package = pack(tree, tmp_path / "store")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", package.path, "-C", tmp_path / "out"], check=True)
    assert read(tmp_path / "out") == read(tree)
