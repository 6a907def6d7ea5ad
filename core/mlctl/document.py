"""YAML files as plain data that remembers its lines.

Scalars follow YAML 1.2's core schema, so that `no` and `on` are words, `1e-3` is a number and `012` is twelve. The
parser is PyYAML's (libyaml where it is compiled in): every orchestrator carries it already, and of its YAML 1.1 only
the scalars surprise people, which are resolved here. A file is bounded in size, depth and in what its aliases expand
to, before it is built.
"""

from __future__ import annotations

import errno
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import InvalidConfig, MlctlError, Unavailable, one_line

__all__ = ["Document", "GivenTwice", "Keys", "dotted", "misnamed", "once", "parse", "read"]

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 50

Keys = tuple[str | int, ...]
"""Where a value stands: ("resources", "cpu"), ("command", 0)."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCT = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Document:
    """A mapping read from `source`, with the line of each of its keys, counted from 1, and the folder from which the
    paths in it count."""

    source: str
    data: dict[str, Any]
    lines: Mapping[Keys, int] = field(default_factory=dict)
    error: type[MlctlError] = InvalidConfig
    folder: Path = Path()

    def fail(self, keys: Keys, text: str) -> MlctlError:
        """The error to raise about the value at `keys`: `job.yaml:12: resources.cpu: ` and `text`."""
        place = self.source
        for cut in range(len(keys), -1, -1):
            if keys[:cut] in self.lines:
                place += f":{self.lines[keys[:cut]]}"
                break
        return self.error(": ".join(part for part in (place, dotted(keys), text) if part))


def dotted(keys: Keys) -> str:
    """("command", 0) as `command[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


class GivenTwice(ValueError):
    """A name is there twice in what should be a mapping."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: given twice")


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of these names and values, of a JSON text's too, as its `object_pairs_hook`. Raises GivenTwice."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise GivenTwice(name)
        made[name] = value
    return made


def misnamed(value: object) -> str:
    """What is wrong with `value` as a mapping of names to values, for the message; empty where nothing is."""
    if not isinstance(value, Mapping):
        return f"got {one_line(value)}, expected a mapping of names to values"
    wrong = [key for key in value if not isinstance(key, str)]
    return f"got the name {one_line(wrong[0])}, expected a string" if wrong else ""


def read(path: Path, error: type[MlctlError]) -> Document:
    """The document in the file at `path`.

    Raises `error` for a missing or unreadable file and for bad YAML, with the line; Unavailable where the disk fails.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device may have no end
            raise error(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        folder = path.absolute().parent
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: no such file") from None
    except PermissionError:
        raise error(f"{path}: not readable; check its permissions") from None
    except OSError as reason:
        kind = error if reason.errno in (errno.ELOOP, errno.ENAMETOOLONG) else Unavailable
        raise kind(f"{path}: {reason.strerror or reason}") from None
    except ValueError:
        raise error(f"{path}: a path holds no null byte") from None
    return parse(raw, str(path), error, folder)


def parse(raw: bytes, source: str, error: type[MlctlError], folder: Path = Path()) -> Document:
    """The document in `raw`; `source` is what messages call it, `folder` where its paths count from."""
    if len(raw) > MAX_BYTES:
        raise error(f"{source}: larger than {MAX_BYTES >> 20} MiB; what a job reads belongs in its inputs")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = raw[: reason.start].count(b"\n") + 1
        raise error(f"{source}:{line}: not UTF-8 at byte {reason.start}") from None
    builder = _Builder(source, error)
    try:
        data = builder.document(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as reason:
        mark, start = reason.problem_mark or reason.context_mark, reason.context_mark
        at = f":{min(mark.line + 1, len(text.splitlines()))}" if mark else ""
        since = f", {reason.context}, from line {start.line + 1}" if mark and start and start.line < mark.line else ""
        raise error(f"{source}{at}: not YAML: {reason.problem or reason.context}{since}") from None
    except yaml.reader.ReaderError as reason:
        line = text.count("\n", 0, reason.position) + 1
        raise error(f"{source}:{line}: not YAML: {reason.reason}") from None
    except (yaml.YAMLError, ValueError) as reason:
        raise error(f"{source}: not YAML: {reason}") from None
    if not isinstance(data, dict):
        raise error(f"{source}: expected a mapping of fields, got {one_line(data) if data is not None else 'nothing'}")
    return Document(source, data, builder.lines, error, folder)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Builder:
    """Plain data from parser events, never deeper or larger than the bounds say."""

    def __init__(self, source: str, error: type[MlctlError]) -> None:
        self.source, self.error = source, error
        self.lines: dict[Keys, int] = {}
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.nodes = 0
        self.chars = 0

    def fail(self, event: Any, text: str) -> MlctlError:
        return self.error(f"{self.source}:{_line(event)}: {text}")

    def document(self, events: Iterator[Any]) -> Any:
        data, seen = None, False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self.fail(event, "a second document starts here ('---'); a file holds one")
                seen = True
                data = self.node(next(events), events, ())
        return data

    def node(self, event: Any, events: Iterator[Any], keys: Keys) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.fail(event, f"alias *{event.anchor} has no anchor before it, or lies inside it")
            data, nodes, chars = self.anchors[event.anchor]
            self.count(event, nodes, chars)
            return data
        nodes, chars = self.nodes, self.chars
        self.count(event, 1, 0)
        if len(keys) > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels")
        self.lines.setdefault(keys, _line(event))
        data = (
            self.scalar(event)
            if isinstance(event, yaml.ScalarEvent)
            else self.sequence(event, events, keys)
            if isinstance(event, yaml.SequenceStartEvent)
            else self.mapping(event, events, keys)
        )
        if event.anchor:
            self.anchors[event.anchor] = data, self.nodes - nodes, self.chars - chars
        return data

    def count(self, event: Any, nodes: int, chars: int) -> None:
        self.nodes += nodes
        self.chars += chars
        if self.nodes > MAX_NODES:
            raise self.fail(event, f"more than {MAX_NODES} values, aliases counted as what they stand for")
        if self.chars > MAX_BYTES:  # only aliases can bring it there
            raise self.fail(event, f"its aliases stand for more than {MAX_BYTES >> 20} MiB")

    def sequence(self, start: Any, events: Iterator[Any], keys: Keys) -> list[Any]:
        self.no_tag(start, "seq")
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.node(event, events, (*keys, len(items))))
        return items

    def mapping(self, start: Any, events: Iterator[Any], keys: Keys) -> dict[str, Any]:
        self.no_tag(start, "map")
        data: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.fail(event, "a key is a word, not a list, a mapping or an alias")
            key = self.scalar(event)
            if not isinstance(key, str):
                raise self.fail(event, f"key {event.value or 'of nothing'}: a key is a string; quote it")
            if key == "<<" and not event.style:
                raise self.fail(
                    event, "'<<' is not part of YAML 1.2; write the fields out, or use an alias for one value"
                )
            if key in data:
                raise self.fail(event, f"{dotted((*keys, key))}: given twice")
            here = (*keys, key)
            self.lines[here] = _line(event)
            data[key] = self.node(next(events), events, here)
        return data

    def no_tag(self, event: Any, kind: str) -> None:
        if event.tag and event.tag not in ("!", _TAG + kind):
            raise self.fail(event, f"tag {event.tag}: tags are not supported")

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        self.chars += len(text)
        if event.tag == _TAG + "str" or (event.style and not event.tag) or event.tag == "!":
            return text
        if event.tag:
            raise self.fail(event, f"tag {event.tag}: tags are not supported")
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text[0] in "tT"
        for pattern, base in ((_INT, 10), (_OCT, 8), (_HEX, 16)):
            if pattern.fullmatch(text):
                if len(text) > 40:
                    raise self.fail(event, f"a number of {len(text)} digits; quote it to make it a string")
                return int(text, base) if base == 10 else int(text[2:], base)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isinf(value):
                raise self.fail(event, f"{one_line(text)}: too large for a number")
            return value
        if text.lower() in (".inf", "-.inf", "+.inf", ".nan"):
            raise self.fail(event, f"{text}: not a number that JSON can carry; quote it to make it a string")
        return text
