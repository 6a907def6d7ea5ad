"""Ignore files as git reads them: which entries of a folder `.gitignore` and `.mlctlignore` leave out.

Patterns are bytes, as paths are, and are asked entry by entry from the top, never below an ignored folder. pathspec, the
library for this, judges whole paths at once: it takes nothing of `*`, `!*/`, `!*.py`, fails on `[z-a]`, and its versions
differ, and with them would a package's digest. The tests hold this module against git itself.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Rule", "ignored", "rules_above", "rules_in"]


class Rule(NamedTuple):
    matches: Callable[[bytes], object]  # on the path from the repository's root
    ignores: bool  # False: the pattern began with "!"
    folders_only: bool


def ignored(path: bytes, is_folder: bool, rules: list[Rule]) -> bool:
    """What the last rule that matches says of `path`, whose parents are known not to be ignored."""
    for rule in reversed(rules):
        if (is_folder or not rule.folders_only) and rule.matches(path):
            return rule.ignores
    return False


def rules_above(root: Path) -> tuple[bytes, list[Rule]]:
    """The path to `root` from its repository's root, and what the .gitignore files on the way say.

    They are asked about what is in `root`, never about `root` itself: it was named, so it is wanted.
    """
    chain = [root, *root.parents]
    height = next((i for i, folder in enumerate(chain) if os.path.lexists(folder / ".git")), 0)
    base, rules = b"", list[Rule]()
    for folder, below in itertools.pairwise(reversed(chain[: height + 1])):
        rules += rules_in(folder, base, (".gitignore",))
        base += os.fsencode(below.name) + b"/"
    return base, rules


def rules_in(folder: Path, base: bytes, names: Iterable[str]) -> list[Rule]:
    """The rules of the ignore files `names` in `folder`, which is `base` from the repository's root. Raises OSError."""
    rules = []
    for path in (folder / name for name in names):
        if path.is_symlink() or not path.is_file():  # git doesn't follow links here either
            continue
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        rules += [rule for line in lines if (rule := _rule(line.removesuffix(b"\r"), base))]
    return rules


def _rule(line: bytes, base: bytes) -> Rule | None:
    """The rule on one line; None for a blank, a comment, and a pattern that can't match."""
    trimmed = re.fullmatch(rb"((?:\\.|.)*?) *", line, re.DOTALL)  # of spaces at the end, but for an escaped one
    if not trimmed or not trimmed[1] or line.startswith(b"#"):
        return None
    pattern = trimmed[1].removeprefix(b"!")
    glob = pattern.removesuffix(b"/")
    if b"/" in glob:  # a path from its file's folder; git matches what follows the literal start on its own
        glob = glob.removeprefix(b"/")
        start = re.split(rb"[*?\[\\]", glob, maxsplit=1)[0]
        prefix, glob = re.escape(base + start), glob[len(start) :]
    else:  # a name, in any folder below
        prefix = re.escape(base) + b"(?:.*/)?"
    expression = _translated(glob)
    if expression is None:
        return None
    return Rule(
        matches=re.compile(prefix + expression, re.DOTALL).fullmatch,
        ignores=not trimmed[1].startswith(b"!"),
        folders_only=pattern.endswith(b"/"),
    )


_TOKEN = re.compile(
    rb"""
      (?P<folders> (?<![^/]) \*\*+ / )          # "**/" as a whole part: any folders, or none
    | (?P<below>   (?<![^/]) \*\*+ \Z )         # "/**" at the end: all that is below
    | (?P<some>    \*+ )
    | (?P<one>     \? )
    | (?P<set>     \[ )
    | \\ (?P<quoted> . )
    | (?P<plain>   [^\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
_WILDCARDS = {"folders": b"(?:.*/)?", "below": b".*", "some": b"[^/]*", "one": b"[^/]"}
_ELEMENT = re.compile(rb"\[:(?P<class>[a-z]+):\]|\\?(?P<low>.)(?:-(?:\\(?P<quoted>.)|(?P<high>[^\\\]])))?", re.DOTALL)
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb"\t ",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


def _translated(glob: bytes) -> bytes | None:
    """A pattern of git's as a regular expression; None if it can't match: an open bracket, a backslash at the end."""
    parts = []
    at = 0
    while token := _TOKEN.match(glob, at):
        kind, at = token.lastgroup or "", token.end()
        if kind == "set":
            found = _translated_set(glob, at)
            if found is None:
                return None
            part, at = found
        else:
            part = _WILDCARDS.get(kind) or re.escape(token[kind])
        parts.append(part)
    return b"".join(parts) if at == len(glob) else None


def _translated_set(glob: bytes, at: int) -> tuple[bytes, int] | None:
    """The regular expression for a set that was opened before `at`, and where it ends; None if it is left open."""
    inverted = glob[at : at + 1] in (b"!", b"^")
    at = first = at + inverted
    inside = b""
    while at == first or glob[at : at + 1] != b"]":
        element = _ELEMENT.match(glob, at)
        if element is None or (element["class"] and element["class"] not in _CLASSES):
            return None
        at = element.end()
        if element["class"]:
            inside += _CLASSES[element["class"]]
        else:
            low, high = element["low"], element["high"] or element["quoted"] or element["low"]
            inside += re.escape(low) + (b"-" + re.escape(high) if low <= high else b"")
    return (b"[^/" if inverted else b"(?!/)[") + inside + b"]", at + 1
