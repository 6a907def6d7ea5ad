"""YAML as mlctl reads it: YAML 1.2's scalars, bounded, and an error has its line."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlctl import document
from mlctl.document import Document, dotted, parse, read
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unavailable


def value_of(text: str) -> Any:
    return parse(f"v: {text}\n".encode(), "f.yaml", InvalidJob).data["v"]


def refused(raw: bytes | str, within: float = 60.0) -> str:
    start = time.monotonic()
    with pytest.raises(InvalidJob) as caught:
        parse(raw.encode() if isinstance(raw, str) else raw, "f.yaml", InvalidJob)
    assert time.monotonic() - start < within
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("No", "No"), ("on", "on"), ("off", "off"), ("yes", "yes"), ("y", "y"), ("true", True), ("True", True),
        ("FALSE", False), ("tRue", "tRue"), ("~", None), ("", None), ("null", None), ("NULL", None), ("nUll", "nUll"),
        ("none", "none"), ("1e-3", 0.001), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("+.5e+1", 5.0), ("-1.5", -1.5),
        ("12", 12),
        ("+12", 12), ("-0", 0), ("012", 12), ("0o17", 15), ("0o18", "0o18"), ("0x1F", 31), ("-0x1F", "-0x1F"), ("0b1", "0b1"),
        ("12:30:00", "12:30:00"), ("1_000", "1_000"), ("2024-01-01", "2024-01-01"),
        ("2024-01-01 12:00:00", "2024-01-01 12:00:00"),
        ("1.2.3", "1.2.3"), ("3.10", 3.1), ('"3.10"', "3.10"), ("'12'", "12"), ('"true"', "true"), ('""', ""), ("=", "="),
        ("2h", "2h"), ("[no, 1, ~]", ["no", 1, None]), ("{a: on}", {"a": "on"}), ("!!str 12", "12"), ("! 12", "12"),
        ("!!seq [1]", [1]), ("!!map {a: 1}", {"a": 1}), ('"\\u00e9\\n"', "é\n"), ("|\n  a\n  b\n", "a\nb\n"),
        (">\n  a\n  b\n", "a b\n"),
        ("9" * 40, int("9" * 40)), ("1.7976931348623157e308", 1.7976931348623157e308), ("1e-999", 0.0), ("'<<'", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f.yaml:2: a: given twice"),
        ("a:\n  b: 1\n  'b': 2", "f.yaml:3: a.b: given twice"),
        ('"a\\nb": 1\n"a\\nb": 2', r"f.yaml:2: a\nb: given twice"),
        ("a: &x {b: 1}\nc:\n  <<: *x",
            "f.yaml:3: '<<' is not part of YAML 1.2; write the fields out, or use an alias for one value"),
        ("a: !!int '3'", "f.yaml:1: tag tag:yaml.org,2002:int: tags are not supported"),
        ("a: !!python/object/apply:os.system [ls]",
            "f.yaml:1: tag tag:yaml.org,2002:python/object/apply:os.system: tags are not supported"),
        ("a: !!set {b}", "f.yaml:1: tag tag:yaml.org,2002:set: tags are not supported"),
        ("a: !foo%0Abar x", r"f.yaml:1: tag !foo\nbar: tags are not supported"),
        ("a: 1\n---\nb: 2", "f.yaml:2: a second document starts here ('---'); a file holds one"),
        ("a: *x", "f.yaml:1: alias *x has no anchor before it, or lies inside it"),
        ("a: &x [*x]", "f.yaml:1: alias *x has no anchor before it, or lies inside it"),
        ("a: &x\n  b: *x", "f.yaml:2: alias *x has no anchor before it, or lies inside it"),
        ("? [a]\n: 1", "f.yaml:1: a key is a word, not a list, a mapping or an alias"),
        ("1: a", "f.yaml:1: key 1: a key is a string; quote it"),
        ("a:\n  ~: 1", "f.yaml:2: key ~: a key is a string; quote it"),
        ("? \n: 1", "f.yaml:1: key of nothing: a key is a string; quote it"),
        ("a: .inf", "f.yaml:1: .inf: not a number that JSON can carry; quote it to make it a string"),
        ("a: -.INF", "f.yaml:1: -.INF: not a number that JSON can carry; quote it to make it a string"),
        ("a: .nan", "f.yaml:1: .nan: not a number that JSON can carry; quote it to make it a string"),
        ("a: 1e999", "f.yaml:1: '1e999': too large for a number"),
        ("a: " + "1" * 41, "f.yaml:1: a number of 41 digits; quote it to make it a string"),
        ("", "f.yaml: expected a mapping of fields, got nothing"),
        ("# only this\n", "f.yaml: expected a mapping of fields, got nothing"),
        ("--- \n...\n", "f.yaml: expected a mapping of fields, got nothing"),
        ("[1, 2]", "f.yaml: expected a mapping of fields, got [1, 2]"),
        ("no", "f.yaml: expected a mapping of fields, got 'no'"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, message: str) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2", 2), ("a: 1\n\tb: 2", 2), ("a: b: c", 1), ("a: 'x", 1), ("a: 1\nb: \0", 2), ("a: 1\n b: 2\n", 2),
        ("%YAML 2.0\n---\na: 1", 1), ("a: !x!y z", 1), ('a: "\\q"', 1), ("a: @x", 1),
    ],
)  # fmt: skip
def test_what_is_no_yaml(text: str, line: int) -> None:
    assert refused(text).startswith(f"f.yaml:{line}: not YAML: ")


def test_what_was_left_open_is_named_by_its_first_line() -> None:
    assert refused("a: 1\nb: [1,\nc: 2\n").endswith(", from line 2")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: 1\nb: \xff\xfe", "f.yaml:2: not UTF-8 at byte 8"),
        ("a: 1".encode("utf-16"), "f.yaml:1: not UTF-8 at byte 0"),
        ("é: 1".encode("latin-1"), "f.yaml:1: not UTF-8 at byte 0"),
        (b"\x1f\x8b\x08\x00", "f.yaml:1: not UTF-8 at byte 1"),
    ],
)
def test_what_is_no_text(raw: bytes, message: str) -> None:
    assert refused(raw) == message


def test_bom_and_crlf() -> None:
    found = parse(b"\xef\xbb\xbfa: no\r\nb:\r\n  - 1\r\nc: |\r\n  x\r\n  y\r\n", "f.yaml", InvalidJob)
    assert found.data == {"a": "no", "b": [1], "c": "x\ny\n"}
    assert found.lines[("b", 0)] == 3


def test_aliases_are_values() -> None:
    text = "a: &x {n: 1}\nb: *x\nc: [&y s, *y, *x]\nd: &x 2\ne: *x\n"
    assert parse(text.encode(), "f", InvalidJob).data == {
        "a": {"n": 1}, "b": {"n": 1}, "c": ["s", "s", {"n": 1}], "d": 2, "e": 2,
    }  # fmt: skip


def laughs(times: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, times)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(9), "f.yaml:5: more than 20000 values, aliases counted as what they stand for"),
        (
            f"a: &x {'y' * 500_000}\nb:\n  - *x\n  - *x\n",
            "f.yaml:4: its aliases stand for more than 1 MiB",
        ),
        ("a: " + "[" * 200_000, "f.yaml:1: nested deeper than 50 levels"),
        ("a: " + "{b: " * 100_000, "f.yaml:1: nested deeper than 50 levels"),
        ("\n".join(" " * n + "a:" for n in range(100)), "f.yaml:52: nested deeper than 50 levels"),
        ("- " * 100 + "x", "f.yaml:1: nested deeper than 50 levels"),
        ("a: [" + "1, " * 30_000 + "]", "f.yaml:1: more than 20000 values, aliases counted as what they stand for"),
        ("a: " + "x" * (1 << 20), "f.yaml: larger than 1 MiB; what a job reads belongs in its inputs"),
    ],
    ids=["laughs", "long alias", "lists", "mappings", "indented", "dashes", "many", "long"],
)
def test_bounds(text: str, message: str) -> None:
    assert refused(text) == message


def test_a_large_file_without_aliases_is_fine() -> None:
    assert len(value_of("x" * ((1 << 20) - 10))) == (1 << 20) - 10


def test_the_parser_in_python_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_Loader", yaml.SafeLoader)
    assert parse(b"a: [no, 012, &x {b: 1e-3}, *x, !!str 1]", "f", InvalidJob).data == {
        "a": ["no", 12, {"b": 0.001}, {"b": 0.001}, "1"]
    }
    assert refused("a: 1\nb: \0") == "f.yaml:2: not YAML: special characters are not allowed"
    assert refused("a: " + "[" * 2000) == "f.yaml:1: nested deeper than 50 levels"
    assert refused("a: 'x").startswith("f.yaml:1: not YAML: ")


_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cn", "Cs", "Zl", "Zp"]))  # what YAML takes unescaped
_NUMBER = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.recursive(
        st.none() | st.booleans() | _NUMBER | _TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
        max_leaves=12,
    )
)
def test_json_is_yaml(value: Any) -> None:
    """What JSON says, YAML 1.2 says too: a JSON file can be a job file."""
    text = json.dumps({"v": value}, ensure_ascii=False)
    assert parse(text.encode(), "f", InvalidJob).data == json.loads(text)


# --- files


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a'; echo foo é.yaml"
    path.write_text("a: 1")
    assert read(path, InvalidJob) == Document(str(path), {"a": 1}, {(): 1, ("a",): 1}, InvalidJob, tmp_path)


def test_paths_count_from_the_folder_of_the_file_whatever_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.yaml").write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    found = read(Path("f.yaml"), InvalidJob)
    monkeypatch.chdir("/")
    assert (found.source, found.folder) == ("f.yaml", tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("a: 1")
    cases = {
        tmp_path: "is a folder",
        tmp_path / "missing": "no such file",
        tmp_path / "file" / "below": "no such file",
        tmp_path / "pipe": "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / ("x" * 300): "File name too long",
    }
    for path, text in cases.items():
        start = time.monotonic()
        with pytest.raises(InvalidConfig) as caught:
            read(path, InvalidConfig)
        assert str(caught.value) == f"{path}: {text}"
        assert time.monotonic() - start < 60  # what grows faster than its input would take hours
    with pytest.raises(InvalidJob, match=r"^a\\x00b: a path holds no null byte$"):
        read(Path("a\0b"), InvalidJob)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(50 << 30)  # 50 GiB that take no space
    start = time.monotonic()
    with pytest.raises(InvalidJob, match="larger than 1 MiB"):
        read(path, InvalidJob)
    assert time.monotonic() - start < 60  # what grows faster than its input would take hours


def test_an_unreadable_file() -> None:
    """As nobody, where the tests run as root, who may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "secret.yaml")
        path.write_text("a: 1")
        path.chmod(0)
        Path(folder).chmod(0o755)
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(InvalidJob) as caught:
                read(path, InvalidJob)
        finally:
            os.seteuid(me)
    assert str(caught.value) == f"{path}: not readable; check its permissions"


def test_a_failing_disk_is_worth_another_try() -> None:
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs a file whose reading fails, as /proc/self/mem does at 0")
    with pytest.raises(Unavailable, match=r"^/proc/self/mem: Input/output error$"):
        read(Path("/proc/self/mem"), InvalidJob)


# --- where an error is


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ((), ""), (("a",), "a"), (("a", "b", 0), "a.b[0]"), (("a", 0, "b"), "a[0].b"),
    ],
)  # fmt: skip
def test_dotted(keys: tuple[str | int, ...], text: str) -> None:
    assert dotted(keys) == text


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ((), "f:2"), (("a",), "f:2: a"), (("a", "b"), "f:3: a.b"), (("a", "b", 1), "f:4: a.b[1]"),
        (("a", "b", 7), "f:3: a.b[7]"), (("a", "z"), "f:2: a.z"), (("z",), "f:2: z"),
    ],
)  # fmt: skip
def test_fail_names_the_nearest_line(keys: tuple[str | int, ...], place: str) -> None:
    found = parse(b"# comment\na:\n  b: [1,\n   2]\n", "f", InvalidConfig)
    error = found.fail(keys, "text")
    assert (type(error), str(error)) == (InvalidConfig, f"{place}: text")


def test_without_lines_the_source_alone_is_named() -> None:
    assert str(Document("job", {}).fail(("a", "b"), "text")) == "job: a.b: text"


# --- anything


@given(st.binary(max_size=200) | st.text(alphabet="ab:-?*&!|>'\"{}[], \n\t#%@\\0\r\x00é<", max_size=60).map(str.encode))
def test_any_bytes_are_a_document_or_one_line(raw: bytes) -> None:
    try:
        parse(raw, "f.yaml", InvalidJob)
    except MlctlError as error:
        assert str(error).startswith("f.yaml:")
        assert len(str(error).splitlines()) == 1
