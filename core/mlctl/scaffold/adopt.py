"""A job for a script that is there already: the files that it takes, and none that would replace another."""

from __future__ import annotations

import os
from pathlib import Path

from .introspect import describe
from .jobfile import job_yaml
from .project import SCHEMA, slug
from .writing import write_new

__all__ = ["adopt"]

_CONFIG = Path(__file__).parent / "templates" / "plain" / "mlctl.yaml"


def adopt(script: Path, *, schema: str, kind: str = "train", folder: Path | None = None) -> list[Path]:
    """Write jobs/NAME.yaml for `script`, and what it needs and isn't there, and return what was written.

    `folder` is the project's: what is shipped as the job's code, and where jobs/ goes; unless said, the one that `describe`
    finds. A mlctl.yaml comes with it unless there is one that a job there would find, a requirements.txt unless the project says
    what it needs. Raises InvalidConfig for what is not a Python script below `folder`, and where the job file exists, with
    nothing written; Unavailable where the disk refuses.
    """
    draft = describe(script, folder)
    files = {f"jobs/{slug(draft.script.stem) or kind}.yaml": job_yaml(draft, kind)}
    if not os.path.lexists(draft.folder / SCHEMA):
        files[SCHEMA] = schema
    if not _configured(draft.folder):
        files["mlctl.yaml"] = _CONFIG.read_text(encoding="utf-8")
    if draft.needs.proposed:
        files["requirements.txt"] = "\n".join(draft.needs.proposed) + "\n"
    return write_new(folder or (draft.folder if script.is_absolute() else Path(os.path.relpath(draft.folder))), files)


def _configured(folder: Path) -> bool:
    """Whether there is a mlctl.yaml from `folder` up to the repository's root."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place / "mlctl.yaml"):
            return True
        if (place / ".git").exists():
            return False
    return False
