"""New projects. A template is a folder beside this file; adding one is adding a folder.

Its files are copied as they are, less three habits: `dot-x` becomes `.x` (a real .gitignore would act on this repository),
`my-project` becomes the project's name (`my_project` in what Python imports), and a template with jobs/ is given what jobs
need and no template should have a copy of: the job schema for editors, and the runtime, as `mlctl_runtime.py` (the name
`mlctl` on the public index is a stranger's).
What a template is, `templates()` reads in the first paragraph of its README.md.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlctl.errors import InvalidConfig, did_you_mean

from .writing import write_new

__all__ = ["SCHEMA", "create", "slug", "templates"]

SCHEMA = "jobs/.job.schema.json"
"""Beside the job files, whose first line names it for editors."""

_TEMPLATES = Path(__file__).parent / "templates"
_RUNTIME = Path(__file__).parent.parent / "runtime.py"
_NAME = "my-project"


def templates() -> dict[str, str]:
    """What `create` can make: name and one line about it."""
    folders = sorted(path for path in _TEMPLATES.iterdir() if (path / "README.md").is_file())
    return {path.name: (path / "README.md").read_text(encoding="utf-8").split("\n\n")[1].strip() for path in folders}


def create(folder: Path, template: str = "sklearn", *, schema: str) -> list[Path]:
    """Make a project in `folder`, new or not, and return its files. `schema` is the job file's JSON Schema.

    Raises InvalidConfig for an unknown template, and for a file that exists already, with nothing written; Unavailable where
    the disk refuses.
    """
    known = templates()
    if template not in known:
        hint = did_you_mean(template, known)
        raise InvalidConfig(f"template: got {template!r}, expected one of {', '.join(known)}{hint}")
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would ask the disk
    name = slug(whole.name, limit=40) or _NAME
    files = {_named(path, name): _named(text, name) for path, text in _files(_TEMPLATES / template).items()}
    if any(path.startswith("jobs/") for path in files):
        files |= {"mlctl_runtime.py": _RUNTIME.read_text(encoding="utf-8"), SCHEMA: schema}
    return write_new(folder, dict(sorted(files.items())))


def _named(text: str, name: str) -> str:
    """`text` about the project called `name`, which Python's modules spell with '_'."""
    return text.replace(_NAME, name).replace(_NAME.replace("-", "_"), name.replace("-", "_"))


def _files(template: Path) -> dict[str, str]:
    """Path and text of each file, `dot-` names turned; what Python compiled on installation is none of them."""
    paths = (path for path in template.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        re.sub(r"(^|/)dot-", r"\1.", path.relative_to(template).as_posix()): path.read_text(encoding="utf-8")
        for path in paths
    }


def slug(text: str, limit: int = 63) -> str:
    """`text` as a job's name can hold it: lower-case letters, digits and '-'; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:limit].strip("-")
