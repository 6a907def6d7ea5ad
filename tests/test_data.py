"""Addresses, the digest of what is here, and writing that leaves a whole file or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mlctl import data, jobfile
from mlctl.data import Local
from mlctl.errors import InvalidConfig, InvalidJob, Unavailable, Unsupported
from mlctl.runs import Upload
from mlctl.stage import stage


def job(tmp_path: Path, **inputs: str) -> Any:
    (tmp_path / "job.yaml").write_text(
        json.dumps({"kind": "train", "name": "job", "command": "true", "inputs": inputs})
    )
    return jobfile.load(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("/data/x", "file"),
        ("data/x", "file"),
        ("S3://bucket/x", "s3"),
        ("abfss://c@a/x", "abfss"),
        ("/Volumes/a/b", "volumes"),
    ],
)
def test_scheme(address: str, scheme: str) -> None:
    assert data.scheme(address) == scheme


def test_reached(tmp_path: Path) -> None:
    """Each platform says how it gets an input, or that it can't."""
    made = job(tmp_path, a="s3://bucket/a", b="/data/b")
    assert data.reached(made, {"s3": "mount", "file": "upload"}, "here") == {"a": "mount", "b": "upload"}
    with pytest.raises(Unsupported, match=r"inputs\.b: got '/data/b', and there reaches s3 only"):
        data.reached(made, {"s3": "mount"}, "there")


def test_a_folders_digest_is_its_content(tmp_path: Path) -> None:
    """Names and bytes count, where it is does not; through JSON and back."""
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/a b.txt").write_text("a")
        (tmp_path / name / "z").write_text("z")
    one, two = Local.of(tmp_path / "one"), Local.of(tmp_path / "two")
    assert one.sha256 == two.sha256 and not one.single
    (tmp_path / "two/z").rename(tmp_path / "two/y")
    assert Local.of(tmp_path / "two").sha256 != one.sha256
    again = Local.of_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert [upload.address for upload in again.uploads("s3://b/inputs")] == [
        f"s3://b/inputs/{one.sha256}/sub/a%20b.txt",
        f"s3://b/inputs/{one.sha256}/z",
    ]
    assert again.address("s3://b/inputs") == f"s3://b/inputs/{one.sha256}"


def test_a_single_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("1\n")
    one = Local.of(tmp_path / "train.csv")
    (upload,) = one.uploads("s3://b")
    assert one.single and upload.address == one.address("s3://b") == f"s3://b/{one.sha256}/train.csv"
    assert upload.source == str(tmp_path / "train.csv")


def test_a_folder_may_be_deeper_than_python_goes(tmp_path: Path) -> None:
    deep = sys.getrecursionlimit() + 100
    inner = "/d" * deep
    try:
        for number in range(deep + 1):
            Path(f"{tmp_path}/input{inner[: 2 * number]}").mkdir()
        Path(f"{tmp_path}/input{inner}/f").write_text("x")
        assert [name for name, _ in Local.of(tmp_path / "input").files] == [f"{inner[1:]}/f"]
        data.copy(tmp_path / "input", tmp_path / "copy")
        assert Path(f"{tmp_path}/copy{inner}/f").read_text() == "x"
    finally:  # no recursion here, either
        subprocess.run(["rm", "-r", tmp_path / "input", tmp_path / "copy"], check=True)


def test_a_folders_links_are_followed_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nothing of an input is left out in silence."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "part").write_text("1")
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / "file").symlink_to(tmp_path / "far" / "part")
    assert [name for name, _ in Local.of(folder).files] == ["file", "linked/part"]
    for make, why in (
        (lambda path: path.symlink_to("gone"), "is a link to nothing"),
        (lambda path: path.symlink_to("part/gone"), "is a link to nothing"),
        (lambda path: path.symlink_to("../data"), "is a folder within itself"),
        (os.mkfifo, "is neither a file nor a folder"),
    ):
        made = folder / "linked" / "odd"
        make(made)
        with pytest.raises(InvalidJob, match=rf"inputs.x: {folder}/linked/odd: {why}$"):
            data.local_inputs(job(tmp_path, x="data"))
        made.unlink()


def test_local_inputs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    found = data.local_inputs(job(tmp_path, a="a", far="s3://bucket/x"))
    assert list(found) == ["a"] and json.dumps(found)
    with pytest.raises(InvalidJob, match=r"inputs\.gone: .*no such file or folder"):
        data.local_inputs(job(tmp_path, gone="gone"))


def test_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or not there; what is there stays; an unknown scheme and a missing library are one line."""
    source, target = tmp_path / "source", tmp_path / "store/a b"
    source.write_text("content")
    address = f"file://{tmp_path}/store/a%20b"
    data.put(Upload(str(source), "", address))
    assert target.read_text() == "content" and list(target.parent.iterdir()) == [target]
    source.write_text("other")
    data.put(Upload(str(source), "", address))
    assert target.read_text() == "content"
    with pytest.raises(InvalidConfig, match="got ftp:, and what can be written to"):
        data.put(Upload(str(source), "", "ftp://host/x"))
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(InvalidConfig, match="needs fsspec and s3fs; install them beside mlctl"):
        data.put(Upload(str(source), "", "s3://bucket/x"))
    with pytest.raises(InvalidConfig, match="got https:, and what can be written to is a path or s3, gs, "):
        data.put(Upload(str(source), "", "https://127.0.0.1:1/x"))
    with pytest.raises(Unavailable, match="No such file"):
        data.put(Upload(str(tmp_path / "gone"), "", f"file://{tmp_path}/store/c"))
    assert list(target.parent.iterdir()) == [target]


def test_what_is_read_is_counted(tmp_path: Path) -> None:
    """Of all files together, also where one is there already, or is read again."""
    sizes = {"a": 3 << 20, "b": 1 << 20, "c": 0}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    uploads = [Upload(str(tmp_path / name), "", f"file://{tmp_path}/store/{name}") for name in sizes]
    data.put(uploads[1])
    told: list[tuple[int, int]] = []

    def put(upload: Upload) -> None:
        if upload is uploads[0]:  # sent twice: the first time in vain
            with data.opened(Path(upload.source)) as stream:
                stream.read()
                stream.seek(0)
                stream.read()
        data.put(upload)

    stage(put, uploads, lambda done, total: told.append((done, total)))
    assert told == sorted(told) or told[-1] == (4 << 20, 4 << 20)
    assert {total for _, total in told} == {4 << 20} and told[-1][0] == 4 << 20
    assert len({done for done, _ in told}) > 3, told
    assert max(done for done, _ in told[: told.index((4 << 20, 4 << 20))]) <= 4 << 20


def test_fsspec_tells_how_far_it_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    told: list[int] = []
    with data.counted(told.append), pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SCHEMES", {**data.SCHEMES, "memory": "fsspec"})
        data.put(Upload(str(source), "", "memory://store/source"))
    assert fsspec.filesystem("memory").cat("/store/source") == source.read_bytes() and told[-1] == 100_000
