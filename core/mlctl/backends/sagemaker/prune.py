"""What `mlctl gc` removes from a target's bucket: uploads that no job uses, and checkpoints of runs that ended.

Outputs and metrics are results, and stay. An upload that a submit finds is written anew where it is older than a week
(store.py), and a job runs for 28 days at most: so what is older than FLOOR is used by no job, in whatever account; the
jobs that this account has are asked nevertheless.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta

from .store import FRESH, Store

__all__ = ["FLOOR", "prune"]

FLOOR = FRESH + timedelta(days=29)

_UPLOADS = ("packages", "inputs", "launch")
_RUN = re.compile(r"(.+-[a-z2-7]{16})-\d+")


def prune(
    store: Store, base: str, before: float, dry: bool, jobs: Iterable[tuple[str, Iterable[str]]]
) -> Iterator[str]:
    """Yields the address of each thing below `base` that was last written before `before`; removes it unless `dry`.

    `jobs` are those that go on or ended since: the name, and the addresses of the inputs, of each.
    """
    stems, used = set(), set()
    for name, inputs in jobs:
        if run := _RUN.fullmatch(name):
            stems.add(run[1])
        used |= {_whole(base, address) for address in inputs}
    for folder in _UPLOADS:
        yield from _remove(store, _things(store, base, f"{base}/{folder}/"), used, before, dry)
    kept = {f"{base}/runs/{stem}/state/" for stem in stems}
    yield from _remove(store, _states(store, f"{base}/runs/"), kept, before, dry)


def _whole(base: str, address: str) -> str:
    """What is removed as one: of an upload of several files, their folder."""
    folder, _, rest = address.removeprefix(f"{base}/").partition("/")
    first, slash, _ = rest.partition("/")
    return f"{base}/{folder}/{first}{slash}"


def _things(store: Store, base: str, below: str) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for address, written in store.listed(below):
        found[_whole(base, address)].append((address, written))
    return found


def _states(store: Store, below: str) -> dict[str, list[tuple[str, float]]]:
    """The state of each stem, less the metrics: checkpoints, and what lets a folder be there."""
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for address, written in store.listed(below):
        stem, _, rest = address.removeprefix(below).partition("/")
        if rest.startswith("state/") and not re.fullmatch(r"state/metrics-\d+\.jsonl", rest):
            found[f"{below}{stem}/state/"].append((address, written))
    return found


def _remove(
    store: Store, things: dict[str, list[tuple[str, float]]], used: set[str], before: float, dry: bool
) -> Iterator[str]:
    for what, objects in things.items():
        if what in used or max(written for _, written in objects) >= before:
            continue
        if not dry:
            if any(store.written(address) >= before for address, _ in objects):  # by a submit, since it was listed
                continue
            store.remove([address for address, _ in objects])
        yield what
