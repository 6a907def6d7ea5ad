"""Values and comments as YAML text that readers of 1.1 and of 1.2 take for the same."""

from __future__ import annotations

import json
import re

__all__ = ["comment", "scalar"]

_PLAIN = re.compile(r"(--?)?[A-Za-z./$_][\w./${}=@+-]*( [\w(./$][\w./${}=@+()',;-]*)*", re.ASCII)
_FLOW = re.compile(r"[A-Za-z./_][\w./-]*( [\w(][\w./()'-]*)*", re.ASCII)  # inside {} and []
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "~", ".inf", "-.inf", ".nan"}  # of 1.1 or of 1.2


def scalar(value: str | int | float | bool, flow: bool = False) -> str:
    """A value as YAML; `flow` where it stands inside {} or []."""
    if isinstance(value, str):
        plain = (_FLOW if flow else _PLAIN).fullmatch(value) and not re.match(r"[-+.]*[0-9]", value)
        return value if plain and value.lower() not in _WORDS else _quoted(value)
    text = json.dumps(value)
    return (
        text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text
    )  # 1.1 takes 1e-05 for a string


def comment(text: str) -> str:
    """Text as a comment can hold it: one line, and nothing that a reader refuses."""
    return "".join(char if char.isprintable() else _escaped(char) for char in " ".join(text.split()))


def _quoted(text: str) -> str:
    return '"' + "".join(char if char.isprintable() and char not in '"\\' else _escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
