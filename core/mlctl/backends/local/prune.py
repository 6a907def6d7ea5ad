"""What `mlctl gc` removes on this machine. A run goes whole: its folder loses its name first, then its files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import folder

__all__ = ["prune"]


def prune(home: Path, before: float, dry: bool) -> Iterator[str]:
    """Yields a line for each thing older than `before` (seconds since 1970) that no run needs; removes it unless
    `dry`."""
    used: set[str] = set()
    for stem in sorted(_listed(home / "runs")):
        if stem.name.startswith("."):
            if stem.stat().st_mtime < before:
                yield from _remove(stem, f"half removed: {stem.name}", dry)
            continue
        attempts = [path for path in _listed(stem) if path.name.isdigit()]
        if _over(stem, attempts, before):
            yield from _remove(stem, f"run {stem.name}, {len(attempts)} attempts", dry)
            continue
        for path in attempts:
            request = folder.plan_of(path)["request"]
            used |= {f"{request['code']}.tar.gz", Path(request["python"]["path"]).parent.parent.name}
        for draft in stem.glob(".new-*"):
            if draft.stat().st_mtime < before:
                yield from _remove(draft, f"half made: {stem.name}/{draft.name}", dry)
    for package in _listed(home / "packages"):
        if package.name not in used and package.stat().st_mtime < before:
            yield from _remove(package, f"package {package.name}", dry)
    for done in (home / "envs").glob("*/.complete"):
        if done.parent.name not in used and done.stat().st_mtime < before:
            yield from _remove(done.parent, f"environment {done.parent.name}", dry)


def _listed(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _over(stem: Path, attempts: list[Path], before: float) -> bool:
    """True where every attempt ended before that time."""
    try:
        ended = [(status.state.terminal, status.finished) for status in map(folder.read, attempts)]
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    newest = stem.stat().st_mtime
    return newest < before and all(terminal and (at is None or at.timestamp() < before) for terminal, at in ended)


def _remove(path: Path, what: str, dry: bool) -> Iterator[str]:
    if not dry:
        if path.is_dir():
            grave = Path(tempfile.mkdtemp(prefix=".gone-", dir=path.parent))
            path = path.rename(grave / path.name)
            shutil.rmtree(grave, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    yield what
