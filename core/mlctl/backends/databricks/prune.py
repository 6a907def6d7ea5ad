"""What `mlctl gc` removes below a target's root: uploads that no run uses, logs and checkpoints of runs that ended.

Outputs stay, and so do metrics, ends and notes for as long as Databricks remembers the run. An upload that a submit finds
is written anew where it is older than a week (workspace.py), and FLOOR is more than that: what a submit is about to use
is younger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import states
from .workspace import FRESH, Missing, Workspace

__all__ = ["FLOOR", "prune"]

FLOOR = 2 * FRESH

_NOTE = re.compile(r"(\d+)\.(\d+)")
_PAGE = 24


@dataclass
class _Used:
    """What runs use: addresses below root, and whether each attempt is remembered, and goes on or ended lately."""

    things: set[str] = field(default_factory=set)
    kept: dict[str, bool] = field(default_factory=dict)
    """Attempt's folder -> whether it is live or recent; without an entry, Databricks has forgotten it."""


def prune(space: Workspace, root: str, before: float, dry: bool) -> Iterator[str]:
    """Yields the path of each thing last written before `before`; removes it unless `dry`."""
    used = _used(space, root, before)
    remove: Callable[[str, bool], None] = (lambda path, folder: None) if dry else space.clear
    for folder in ("launcher", "packages", "data", "jobs"):
        for each in space.entries(f"{root}/{folder}"):
            path = f"{root}/{folder}/{each.name}"
            if path not in used.things and space.newest(path, each) < before:
                remove(path, bool(each.is_directory))
                yield path
    for each in space.entries(f"{root}/runs"):
        yield from _stem(space, f"{root}/runs/{each.name}", used, before, remove)


def _stem(
    space: Workspace, stem: str, used: _Used, before: float, remove: Callable[[str, bool], None]
) -> Iterator[str]:
    inside = {each.name: each for each in space.entries(stem)}
    attempts = {name for name in inside if name.isdigit()} | {m[1] for name in inside if (m := _NOTE.fullmatch(name))}
    gone = ["checkpoints"] if not any(used.kept.get(f"{stem}/{number}") for number in attempts) else []
    for number in attempts:
        at = f"{stem}/{number}"
        if at not in used.kept:
            gone += [f"{number}/{name}" for name in ("log", "metrics.jsonl", "exit.json", "started")]
            gone += [name for name in inside if (note := _NOTE.fullmatch(name)) and note[1] == number]
        elif not used.kept[at]:
            gone.append(f"{number}/log")
    for name in sorted(gone):
        folder, _, last = f"{stem}/{name}".rpartition("/")
        entry = next((each for each in space.entries(folder) if each.name == last), None)
        if entry and space.newest(f"{folder}/{last}", entry) < before:
            remove(f"{folder}/{last}", bool(entry.is_directory))
            yield f"{folder}/{last}"


def _used(space: Workspace, root: str, before: float) -> _Used:
    """Of the runs that go on, noted or not, and of those noted that Databricks remembers."""
    used = _Used()
    token = ""
    while True:
        page = space.call(
            "GET", "runs/list", active_only="true", expand_tasks="true", limit=_PAGE, page_token=token or None
        )
        for record in page.get("runs") or []:
            _uses(space, root, record, used, recent=True)
        token = page.get("next_page_token") or ""
        if not token:
            break
    for stem in space.listed(f"{root}/runs"):
        for name in space.listed(f"{root}/runs/{stem}"):
            note = _NOTE.fullmatch(name)
            if not note:
                continue
            try:
                record = space.call("GET", "runs/get", run_id=note[2])
            except Missing:  # Databricks forgot it, or somebody deleted it
                continue
            status = states.status_of(record)
            recent = not status.state.terminal or status.finished is None or status.finished.timestamp() >= before
            _uses(space, root, record, used, recent)
            at = f"{root}/runs/{stem}/{note[1]}"
            used.kept[at] = recent or used.kept.get(at, False)
    return used


def _uses(space: Workspace, root: str, record: Mapping[str, Any], used: _Used, recent: bool) -> None:
    """The job's file, which `result` reads; while the run is recent, all that is named in it too."""
    task = (record.get("tasks") or [{}])[0].get("spark_python_task") or {}
    file = str((task.get("parameters") or [""])[0])
    if not file.startswith(f"{root}/jobs/"):
        return
    used.things.add(file)
    if recent:
        name = str(record.get("run_name"))
        stem, _, number = name.rpartition("-")
        used.kept[f"{root}/runs/{stem}/{number}"] = True
        used.things.add(str(task.get("python_file")))
        try:
            text = space.read(file).decode("utf-8", "replace")
        except Missing:
            return
        digests = re.findall(re.escape(root) + r"/(packages/[0-9a-f]{64}\.tar\.gz|data/[0-9a-f]{64})", text)
        used.things |= {f"{root}/{each}" for each in digests}
