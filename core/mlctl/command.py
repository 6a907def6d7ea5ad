"""A job's command: a list of words, or a script that a shell runs.

A string is split to words as a shell would, and no shell runs it; `${{params.lr}}` is replaced inside words after the
split, so that no value can break out of its word. What only a shell could do (`|`, `&&`, `$NAME`) is an error that
names `shell:`, whose script takes its values from the environment only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Command", "Placeholder", "fill", "placeholders", "text_of"]

Placeholder = tuple[str, str]
"""("params", "lr") for `${{params.lr}}`."""

_PLACEHOLDER = re.compile(r"\$\{\{\s*(params|inputs|outputs)\.([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")
_OPENED = re.compile(r"\$\{\{[^}]*\}{0,2}")
_MARK = "\ue000"  # stands for a placeholder while a string is split; a private-use character


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
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match.group())
        return f"{_MARK}{len(kept) - 1}{_MARK}"

    if _MARK in line:
        raise ValueError("holds a private-use character, U+E000")
    masked = _PLACEHOLDER.sub(keep, line)
    _refuse_shell(masked)
    try:
        words = shlex.split(masked)
    except ValueError as reason:
        raise ValueError(f"{str(reason).lower()} in {line!r}") from None
    return tuple(re.sub(f"{_MARK}(\\d+){_MARK}", lambda m: kept[int(m.group(1))], word) for word in words)


def _refuse_shell(line: str) -> None:
    """Quotes are honoured as a shell does: nothing is special in '...', only `$` and the backquote in "..."."""
    quote, escaped = "", False
    for at, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
            elif quote == '"':
                _refuse(line, at, "$`")
        elif char in "'\"":
            quote = char
        else:
            _refuse(line, at, "$`|&;<>\n")


def _refuse(line: str, at: int, special: str) -> None:
    char = line[at]
    if char not in special or (char == "\n" and not line[at:].strip()):
        return
    if char == "$" and line[at : at + 3] == "${{":
        return  # a malformed placeholder, which has a better message
    if char == "$" and not re.match(r"\$[A-Za-z_0-9({?@*#!$-]", line[at:]):
        return
    doubled = line[at : at + 2] if line[at : at + 2] in ("&&", "||", ">>") else char
    shown = "a line break" if char == "\n" else repr(doubled)
    raise ValueError(
        f"{shown} needs a shell, and none runs; write command: {{shell: ...}}, or quote it ('{doubled.strip()}')"
    )


def placeholders(words: Iterable[str]) -> list[Placeholder]:
    """Every placeholder in `words`, in order. Raises ValueError for a `${{` that is none."""
    found: list[Placeholder] = []
    for word in words:
        found += [(match[1], match[2]) for match in _PLACEHOLDER.finditer(word)]
        left = _OPENED.search(_PLACEHOLDER.sub("", word))
        if left:
            bad = left.group()
            hint = "; a secret is read from the environment" if "secret" in bad else ""
            raise ValueError(
                f"bad placeholder {bad!r}, expected ${{{{params.NAME}}}}, ${{{{inputs.NAME}}}} or ${{{{outputs.NAME}}}}{hint}"
            )
    return found


def fill(text: str, values: Callable[[Placeholder], str]) -> str:
    """`text` with each placeholder replaced, once: what a value brings along is not looked at again."""
    return _PLACEHOLDER.sub(lambda match: values((match[1], match[2])), text)


def text_of(value: Any) -> str:
    """A parameter's value as a word: strings as they are, everything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown(argv: Sequence[str]) -> str:
    """`argv` as a person would type it."""
    return shlex.join(argv)
