"""A job's command: a list of words, or a script that a shell runs.

A string is split to words as a shell would, and no shell runs it; `${{params.lr}}` is replaced inside words after the
split, so that no value can break out of its word. What only a shell could do (`|`, `&&`, `$NAME`, `*`) is an error that
names `shell:`, whose script takes its values from the environment only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .errors import one_line

__all__ = ["Command", "Placeholder", "fill", "placeholders", "text_of", "variable"]

Placeholder = tuple[str, str]
"""("params", "lr") for `${{params.lr}}`."""

_PLACEHOLDER = re.compile(r"\$\{\{\s*(params|inputs|outputs)\.([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")
_OPENED = re.compile(r"\$\{\{[^}]*\}{0,2}")
_PLACE = r"""\$\{\{[^{}'"\\\n]*\}\}"""  # a placeholder, or what was meant as one: spaces inside don't end the word
_PIECE = re.compile(
    rf"""  \A[ \t\n]+ | (?P<blank>[ \t]+ | [ \t]*\n[ \t\n]*\Z)
         | \\\n
         | \\(?P<escaped>.)
         | '(?P<single>[^']*)'
         | "(?P<double>(?:\\.|[^"\\])*)"
         | (?P<plain>{_PLACE} | [A-Za-z0-9_./:=,@%+-]+ | .)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(rf"{_PLACE}|\\(?P<escaped>.)|(?P<special>[$`])", re.DOTALL)
_EXPANDS = re.compile(r"\$(?=[A-Za-z_0-9({?@*#!$-])")
_ASSIGNED = re.compile(r"[ \t\n]*([A-Za-z_][A-Za-z0-9_]*=)")


@dataclass(frozen=True)
class Command:
    """`argv`, or `script` for `/bin/sh -e -c`; the other is empty. Placeholders are still in `argv`."""

    argv: tuple[str, ...] = ()
    script: str = ""

    @classmethod
    def of(cls, value: Any) -> Command:
        """From the job file's string, list or {shell: script}. Raises ValueError with what is wrong."""
        if isinstance(value, dict):
            script = str(value["shell"])
            if not script.strip():
                raise ValueError("is empty")
            if "${{" in script:
                raise ValueError('a script has no placeholders; put them in env: and use "$NAME"')
            return cls(script=script)
        argv = split(value) if isinstance(value, str) else tuple(str(word) for word in value)
        if not argv or not argv[0]:
            raise ValueError("is empty")
        placeholders(argv)
        return cls(argv=argv)

    def rendered(self, values: Callable[[Placeholder], str]) -> list[str]:
        """The words to run, placeholders replaced by what `values` gives for each."""
        return ["/bin/sh", "-e", "-c", self.script] if self.script else [fill(word, values) for word in self.argv]


def split(line: str) -> tuple[str, ...]:
    """The words of `line` as a shell would split them. Raises ValueError for what only a shell could do."""
    if match := _ASSIGNED.match(line):
        raise ValueError(f"'{match[1]}' before the program needs a shell, and none runs; put it in env:")
    words: list[str] = []
    word: list[str] = []  # its pieces; a word of one empty piece is an empty word
    for piece in _PIECE.finditer(line):
        if piece["blank"]:
            words += ["".join(word)] if word else []
            word = []
        elif piece["single"] is not None:
            word.append(piece["single"])
        elif piece["double"] is not None:
            word.append(_unquoted(piece["double"]))
        elif piece["escaped"]:
            word.append(piece["escaped"])
        elif piece["plain"]:
            _refuse(line, piece.start(), "|&;<>()*`$\n" if word else "|&;<>()*`$\n#~")
            word.append(piece["plain"])
    return (*words, "".join(word)) if word else (*words,)


def _unquoted(text: str) -> str:
    """What stands in "...": there a backslash is for `$`, the backquote, `"`, itself and a line break only."""

    def piece(match: re.Match[str]) -> str:
        if match["special"]:
            _refuse(text, match.start(), "`$")
        if match["escaped"] is None:
            return match.group()
        return "" if match["escaped"] == "\n" else match["escaped"] if match["escaped"] in '$`"\\' else match.group()

    return _QUOTED.sub(piece, text)


def _refuse(line: str, at: int, special: str) -> None:
    """Raises ValueError where the character at `at` is one that a shell would not leave as it is."""
    char = line[at]
    if char in "'\"":
        raise ValueError(f"no closing quotation in {one_line(line)}")
    if char == "\\":
        raise ValueError(f"nothing after the last backslash in {one_line(line)}")
    if char not in special or (char == "$" and (line.startswith("${{", at) or not _EXPANDS.match(line, at))):
        return  # a `${{` that is no placeholder has a better message, of `placeholders`
    doubled = line[at : at + 2] if line[at : at + 2] in ("&&", "||", ">>") else char
    shown = {"\n": "a line break", "#": "'#', a comment,"}.get(char, f"'{doubled}'")
    way = "end the line with a backslash to go on" if char == "\n" else f"quote it ('{doubled}')"
    raise ValueError(f"{shown} needs a shell, and none runs; write command: {{shell: ...}}, or {way}")


def placeholders(words: Iterable[str]) -> list[Placeholder]:
    """Every placeholder in `words`, in order. Raises ValueError for a `${{` that is none."""
    found: list[Placeholder] = []
    for word in words:
        found += [(match[1], match[2]) for match in _PLACEHOLDER.finditer(word)]
        left = _OPENED.search(_PLACEHOLDER.sub(" ", word))
        if left:
            bad = left.group()
            hint = "; a secret is read from the environment" if "secret" in bad else ""
            allowed = "${{params.NAME}}, ${{inputs.NAME}} or ${{outputs.NAME}}"
            raise ValueError(f"bad placeholder {one_line(bad)}, expected {allowed}{hint}")
    return found


def fill(text: str, values: Callable[[Placeholder], str]) -> str:
    """`text` with each placeholder replaced, once: what a value brings along is not looked at again."""
    return _PLACEHOLDER.sub(lambda match: values((match[1], match[2])), text)


def variable(name: str) -> str:
    """The name of an input or output as the contract's variables spell it: `train-data` as `TRAIN_DATA`."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def text_of(value: Any) -> str:
    """A parameter's value as a word: strings as they are, everything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
