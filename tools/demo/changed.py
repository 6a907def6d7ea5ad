"""The examples with one parameter of one file changed, and what tells one model from another. For the demo and its test."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

__all__ = ["AFTER", "BEFORE", "EXAMPLES", "FILE", "copy", "digest"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FILE = "01-local/jobs/train.yaml"
BEFORE, AFTER = "epochs: {type: integer, default: 10,", "epochs: {type: integer, default: 3,"


def copy(to: Path) -> Path:
    """The examples below `to`, which is made anew, as they stand but for the one change.

    Raises ValueError where FILE doesn't have BEFORE once.
    """
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(EXAMPLES, to / "examples", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (to / "integrations").symlink_to(ROOT / "integrations")  # where KFP's pipeline looks for the components
    file = to / "examples" / FILE
    text = file.read_text()
    if text.count(BEFORE) != 1:
        raise ValueError(f"examples/{FILE}: expected '{BEFORE}' once, got it {text.count(BEFORE)} times")
    file.write_text(text.replace(BEFORE, AFTER))
    return to / "examples"


def digest(folder: Path) -> str:
    """sha256 of a folder's files, their names included; 16 hex digits of it."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]
