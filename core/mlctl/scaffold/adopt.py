"""A job for a script that is there already: the files that it takes, and none that would replace another."""

from __future__ import annotations

import os
from pathlib import Path

from .introspect import describe
from .jobfile import job_yaml
from .project import SCHEMA, slug
from .requirements import upwards
from .writing import write_new

__all__ = ["adopt"]

_CONFIG = Path(__file__).parent / "templates" / "plain" / "mlctl.yaml"


def adopt(script: Path, *, schema: str, kind: str = "train", folder: Path | None = None) -> list[Path]:
    """Write jobs/NAME.yaml for `script`, and what it needs and isn't there, and return what was written.

    `folder` is the project: what is shipped as the job's code, and where jobs/ goes; the script's own folder unless said. A
    mlctl.yaml comes with it unless there is one from there up to the repository's root, a requirements.txt unless the project
    says what it needs. Raises InvalidConfig for what is not a Python script below `folder`, and where the job file exists, with
    nothing written; Unavailable where the disk refuses.
    """
    draft = describe(script, folder)
    files = {f"jobs/{slug(draft.script.stem) or kind}.yaml": job_yaml(draft, kind)}
    if not os.path.lexists(draft.folder / SCHEMA):
        files[SCHEMA] = schema
    if not any((place / "mlctl.yaml").exists() for place in upwards(draft.folder, draft.folder)):
        files["mlctl.yaml"] = _CONFIG.read_text(encoding="utf-8")
    if draft.needs.proposed:
        files["requirements.txt"] = "\n".join(draft.needs.proposed) + "\n"
    return write_new(draft.folder, files)
