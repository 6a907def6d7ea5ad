"""What `mlctl gc` removes on this machine. A run goes whole: its folder loses its name first, then its files."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from . import folder

__all__ = ["prune"]

_SUBMIT = 86400
"""Seconds from the packing of code to its use that a submit may take: an image or an environment may be built in between."""


def prune(home: Path, before: float, dry: bool) -> Iterator[str]:
    """Yields a line for each thing older than `before` (seconds since 1970) that no run needs; removes it unless
    `dry`."""
    used: set[str] = set()
    for stem in _listed(home / "runs"):
        if stem.name.startswith("."):
            if _old(stem, before):
                yield from _remove(stem, f"half removed: {stem.name}", dry)
            continue
        attempts, drafts = _inside(stem)
        if _over(stem, before):
            what = f"run {stem.name}, {len(attempts)} attempts"
            removed = _remove_alone(stem, what, dry, stem, partial(_over, stem, before))
            yield from removed
            if removed:
                continue
        for path in attempts:
            with contextlib.suppress(OSError):  # another gc's by now, or damaged
                request = folder.plan_of(path)["request"]
                used |= {f"{request['code']}.tar.gz", Path(request["python"]["path"]).parent.parent.name}
        for draft in drafts:
            if _old(draft, before) and not folder.held(draft / "lock"):
                yield from _remove(draft, f"half made: {stem.name}/{draft.name}", dry)
    for package in _listed(home / "packages"):
        still = partial(_old, package, min(before, time.time() - _SUBMIT))
        if package.name not in used and still():
            yield from _remove_alone(package, f"package {package.name}", dry, package, still)
    for env in _listed(home / "envs"):
        if env.is_dir() and env.name not in used and _unused(env, before):
            lock, still = env.with_suffix(".lock"), partial(_unused, env, before)
            yield from _remove_alone(env, f"environment {env.name}", dry, lock, still)


def _listed(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _inside(stem: Path) -> tuple[list[Path], list[Path]]:
    """A run's attempts, and those that are being made."""
    inside = _listed(stem)
    return [path for path in inside if path.name.isdigit()], [path for path in inside if path.name.startswith(".new-")]


def _old(path: Path, before: float) -> bool:
    """True for what was last changed before that time; False for what is gone meanwhile."""
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _over(stem: Path, before: float) -> bool:
    """True where every attempt ended before that time, and nobody is making another."""
    attempts, drafts = _inside(stem)
    if any(folder.held(draft / "lock") for draft in drafts):
        return False
    try:
        ended = [(status.state.terminal, status.finished) for status in map(folder.read, attempts)]
    except OSError:
        return False
    return _old(stem, before) and all(terminal and (at is None or at.timestamp() < before) for terminal, at in ended)


def _unused(env: Path, before: float) -> bool:
    done = env / ".complete"  # without it: a crash's leavings, or being built under a lock
    return _old(done if done.exists() else env, before)


def _remove_alone(path: Path, what: str, dry: bool, lock: Path, still: Callable[[], bool]) -> list[str]:
    """The same for what somebody may begin to use meanwhile, who then holds `lock`: it is looked at once more, when nobody does."""
    held = folder.together(lock, fcntl.LOCK_SH if dry else fcntl.LOCK_EX) if lock.exists() else contextlib.nullcontext()
    with contextlib.suppress(BlockingIOError, FileNotFoundError), held:
        if still():
            return list(_remove(path, what, dry))
    return []


def _remove(path: Path, what: str, dry: bool) -> Iterator[str]:
    if not dry:
        try:
            with tempfile.TemporaryDirectory(prefix=".gone-", dir=path.parent, ignore_cleanup_errors=True) as grave:
                path.rename(Path(grave, path.name))
        except FileNotFoundError:  # another gc was faster
            return
    yield what
