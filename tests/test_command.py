"""Commands: split as a shell splits, and values that never break out of their word."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlctl.command import Command, fill, placeholders, split, text_of

HOSTILE = [
    "a'; echo foo", 'a"; echo foo', "two\nlines", "é 日本 🚀", "x" * 10_000, "$(HOME)", "$HOME", "${HOME}", "`id`", "a\\", "",
    " ", "-rf", "*", "~", "#", "| tee x", "${{inputs.x}}", "${{params.v}}", "{{x}}", "{{job.id}}", "{{secrets/a/b}}",
    "{{workflow.name}}", "%s", "\\1", r"\g<0>", "\ue0000\ue000", "\t", "\r\n",
]  # fmt: skip


class Shell:
    """A real /bin/sh that tells the words it makes of a line: one process for all lines."""

    def __init__(self, folder: Path) -> None:
        script = """while IFS= read -r file; do eval "set -- $(cat "$file"; echo x)"; printf '%s\\0' "$#" "$@"; done"""
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"}
        )  # fmt: skip
        self.file = folder.parent / "line"

    def word(self) -> str:
        assert self.process.stdout
        found = bytearray()
        while (char := self.process.stdout.read(1)) not in (b"\0", b""):
            found += char
        return found.decode()

    def split(self, line: str) -> tuple[str, ...]:
        """`line` and a last word x, so that what stands at its end can't be lost in $( )."""
        assert self.process.stdin
        self.file.write_text(f"{line} ")
        self.process.stdin.write(f"{self.file}\n".encode())
        self.process.stdin.flush()
        words = tuple(self.word() for _ in range(int(self.word())))
        assert words[-1] == "x"
        return words[:-1]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("shell") / "empty"  # nothing here for a pattern to find
    folder.mkdir()
    made = Shell(folder)
    yield made
    made.process.communicate()


LINES = [
    ("python train.py --lr 0.1", ["python", "train.py", "--lr", "0.1"]),
    ("  a \t b  ", ["a", "b"]),
    ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
    ("a '' \"\" b", ["a", "", "", "b"]),
    ("a'b'\"c\"d", ["abcd"]),
    (r"""a '\' "\\" \\ \' \" "\"" '"' "'" """, ["a", "\\", "\\", "\\", "'", '"', '"', '"', "'"]),
    (r'a "\$HOME" \$HOME "\`x\`" "\n" \n', ["a", "$HOME", "$HOME", "`x`", "\\n", "n"]),
    ("a '$HOME `x` $(x) | && > ; # * ~'", ["a", "$HOME `x` $(x) | && > ; # * ~"]),
    ('a "| && > ; # * ~ ( )"', ["a", "| && > ; # * ~ ( )"]),
    (r"a \| \& \> \; \# \* \~ \(", ["a", "|", "&", ">", ";", "#", "*", "~", "("]),
    ("a $ $. a$ $, 50$ $% '$'", ["a", "$", "$.", "a$", "$,", "50$", "$%", "$"]),
    ("a b#c x=# y~z", ["a", "b#c", "x=#", "y~z"]),
    ("a \\\n  --lr 1 \\\n", ["a", "--lr", "1"]),
    ("a b\\\nc \"d\\\ne\" 'f\\\ng'", ["a", "bc", "de", "f\\\ng"]),
    ("a 'b\nc' \"d\ne\"", ["a", "b\nc", "d\ne"]),
    ("a x[0] y?z {b,c} [1,2] a=b +c={d:1} !x ^y %z", ["a", "x[0]", "y?z", "{b,c}", "[1,2]", "a=b", "+c={d:1}", "!x",
        "^y", "%z"]),
    ("a s3://b/c?d=1 é 日本 a\u00a0b", ["a", "s3://b/c?d=1", "é", "日本", "a\u00a0b"]),
    ("a -- -x --y=z", ["a", "--", "-x", "--y=z"]),
    ("a \r", ["a", "\r"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_split(line: str, words: list[str], shell: Shell) -> None:
    assert list(split(line)) == words
    assert shell.split(line) == tuple(words)


_QUOTING = st.text(alphabet="ab 1=.-,:/%+@'\"\\\t\néx{}[]?!^", max_size=25)


@given(line=_QUOTING)
def test_split_is_the_shells(shell: Shell, line: str) -> None:
    """For every line that needs no shell, and that a shell takes as one command, the words are the shell's."""
    line = f"prog {line}"
    try:
        words = split(line)
    except ValueError as reason:
        assert re.search("closing quotation|last backslash|line break", str(reason))
        return
    if line.endswith("\n") or "\n" in re.sub(r"\\\n|'[^']*'|\"[^\"]*\"", "", line):
        line = re.sub(r"\A((?:\\.|[^\\])*?)[ \n\t]*\Z", r"\1", line, flags=re.DOTALL)  # what follows are empty lines
    assert shell.split(line) == words


@pytest.mark.parametrize("line", ["a\n", "a\n\n  \n", "\n\n a", "  \n a \n"])
def test_empty_lines_around_a_command(line: str) -> None:
    assert split(line) == ("a",)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a | b", "'|'"), ("a || b", "'||'"), ("a && b", "'&&'"), ("a & b", "'&'"), ("a &", "'&'"), ("a > b", "'>'"),
        ("a>b", "'>'"),
        ("a >> b", "'>>'"), ("a 2>&1", "'>'"), ("a < b", "'<'"), ("a ; b", "';'"), ("a;", "';'"), ("a $HOME", "'$'"),
        ("a ${HOME}", "'$'"),
        ("a $(b)", "'$'"), ("a $1", "'$'"), ("a $?", "'$'"), ("a $$", "'$'"), ("a $@", "'$'"), ('a "$HOME"', "'$'"),
        ('a "x ${HOME}"', "'$'"),
        ("a `b`", "'`'"), ('a "`b`"', "'`'"), ("a\nb", "a line break"), ("a '\nb' c\nd", "a line break"),
        ("a *.csv", "'*'"), ("a x/*", "'*'"),
        ("a ~/x", "'~'"), ("~/x", "'~'"), ("a # b", "'#', a comment,"), ("# b", "'#', a comment,"), ("(a)", "'('"),
        ("a b)", "')'"),
        ("a $${{params.a}}", "'$'"), ("a 'x'|b", "'|'"), ('a "x"|b', "'|'"), ("a '' | b", "'|'"),
        ("A=1 b", "'A=' before the program"), (" A_b1='x y' b", "'A_b1=' before the program"),
    ],
)  # fmt: skip
def test_what_only_a_shell_could_do(line: str, what: str) -> None:
    with pytest.raises(ValueError, match="needs a shell, and none runs") as caught:
        Command.of(line)
    assert str(caught.value).startswith(what)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is empty"), ("  \n ", "is empty"), ("''", "is empty"), ([], "is empty"), ([""], "is empty"),
        ({"shell": " \n"}, "is empty"),
        ("a 'b", 'no closing quotation in "a \'b"'), ('a "b', "no closing quotation in 'a \"b'"),
        ("a \\", r"nothing after the last backslash in 'a \\'"),
        ("a ${{params.}}", "bad placeholder '${{params.}}'"), ("a ${{ param.x }}", "bad placeholder '${{ param.x }}'"),
        ("a ${{lr}}", "bad placeholder '${{lr}}'"), ("a ${{}}", "bad placeholder '${{}}'"), ("a ${{", "bad placeholder '${{'"),
        ("a ${{params.x}", "bad placeholder '${{params.x}'"), ("a ${{params.x y}}", "bad placeholder '${{params.x y}}'"),
        ("a ${{params.1x}}", "bad placeholder '${{params.1x}}'"), ("a ${{Params.x}}", "bad placeholder '${{Params.x}}'"),
        (["a", "${{params.x.y}}"], "bad placeholder '${{params.x.y}}'"), ("a ${{params.x}}${{y}}", "bad placeholder '${{y}}'"),
        ({"shell": "a ${{params.x}}"}, 'a script has no placeholders; put them in env: and use "$NAME"'),
    ],
)  # fmt: skip
def test_bad_commands(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Command.of(value)
    text = str(caught.value)
    assert text == (
        message
        if "bad" not in message
        else f"{message}, expected ${{{{params.NAME}}}}, ${{{{inputs.NAME}}}} or ${{{{outputs.NAME}}}}"
    )


def test_a_secret_as_a_placeholder_is_told_where_it_is() -> None:
    with pytest.raises(ValueError, match="a secret is read from the environment"):
        Command.of("a ${{ secrets.TOKEN }}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a ${{params.lr}}", ["a", "<lr>"]), ("a ${{ params.lr }}", ["a", "<lr>"]),
        ("a --x=${{  inputs.my-data}}/f", ["a", "--x=<my-data>/f"]),
        ("a '${{params.lr}}'", ["a", "<lr>"]), ('a "x ${{ outputs.model }}"', ["a", "x <model>"]), ("${{params.p}}", ["<p>"]),
        ("a ${{params.a}}${{params.b}}", ["a", "<a><b>"]), ("a {{params.a}} {params.a}", ["a", "{{params.a}}", "{params.a}"]),
        ("a \\\n ${{\tparams.a\t}}", ["a", "<a>"]), (["a b", "${{params.a}} c", 1, 0.1], ["a b", "<a> c", "1", "0.1"]),
    ],
)  # fmt: skip
def test_placeholders(line: object, words: list[str]) -> None:
    assert Command.of(line).rendered(lambda placeholder: f"<{placeholder[1]}>") == words


def test_placeholders_are_found_in_order() -> None:
    assert placeholders(["a", "${{params.x}}${{ inputs.y-z }}", "${{outputs.m}}"]) == [
        ("params", "x"), ("inputs", "y-z"), ("outputs", "m"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_values_arrive_as_sent(value: str) -> None:
    command = Command.of("run --v=${{params.v}} '${{params.v}}' \"<${{params.v}}>\" ${{params.v}}${{params.v}}")
    assert command.rendered(lambda _: value) == ["run", f"--v={value}", value, f"<{value}>", value + value]
    assert fill("x ${{params.v}} y", lambda _: value) == f"x {value} y"


@given(st.text())
def test_any_value_arrives_as_sent(value: str) -> None:
    assert Command.of("run ${{params.v}}").rendered(lambda _: value) == ["run", value]


def test_a_script_is_a_shells() -> None:
    assert Command.of({"shell": "a | b $X"}).rendered(lambda _: "") == ["/bin/sh", "-e", "-c", "a | b $X"]


@given(st.text(max_size=80) | st.text(alphabet="ab ${}params.x'\"\\\n|;", max_size=60))
def test_any_line_is_words_or_a_value_error(line: str) -> None:
    try:
        assert Command.of(line).argv
    except ValueError as reason:
        assert str(reason)


@pytest.mark.parametrize(
    "line",
    [
        "a " + "é" * 1_000_000, "a " + "b " * 500_000, 'a "' + "\\$" * 500_000 + '"', "a '" + "x" * 1_000_000,
        'a "' + "${{params.x}}" * 50_000, "a " + "${{" * 300_000, "a" + " \n" * 500_000 + "b",
    ],
    ids=["one word", "many words", "escapes", "open", "open with placeholders", "bad placeholders", "empty lines"],
)  # fmt: skip
def test_a_long_line_takes_no_long_time(line: str) -> None:
    start = time.monotonic()
    try:
        Command.of(line)
    except ValueError as reason:
        assert len(str(reason)) < 1000
    assert time.monotonic() - start < 60  # what grows faster than its input would take hours


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"), (1, "1"), (10**30, "1" + "0" * 30), (0.1, "0.1"), (1e-5, "1e-05"), (1.0, "1.0"), (True, "true"),
        (None, "null"),
        (["é", 1], '["é",1]'), ({"a": {"b": 1}}, '{"a":{"b":1}}'),
    ],
)  # fmt: skip
def test_text_of(value: object, text: str) -> None:
    assert text_of(value) == text
