"""What a project says it needs, as lines that pip understands: of `pyproject.toml`, and of `pylock.toml` (PEP 751).

A requirements file is read by job.py, as it may include others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

__all__ = ["EXPORT", "lines"]

EXPORT: Mapping[str, str] = {
    "uv.lock": "uv export --format requirements.txt --no-emit-project -o requirements.txt",
    "poetry.lock": "poetry export -o requirements.txt",
    "pdm.lock": "pdm export -o requirements.txt",
    "Pipfile": "pipenv requirements >requirements.txt",
    "Pipfile.lock": "pipenv requirements >requirements.txt",
    "environment.yml": "list what pip installs in requirements.txt; what conda alone has belongs in the base image",
}
"""Files that only their own tool reads -> how it writes one that can be read here."""


def lines(text: str, name: str) -> str:
    """The requirements in the TOML file called `name`, a line each. Raises ValueError with what is wrong in it."""
    try:
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise ValueError("reading TOML needs Python 3.11 or newer, or the package tomli") from None
    data = toml.loads(text)  # its error is a ValueError
    if re.fullmatch(r"pylock(\.[^.]+)?\.toml", name):
        return "\n".join(_locked(data.get("packages", ())))
    if name == "pyproject.toml":
        project = data.get("project", {})
        if "dependencies" in project.get("dynamic", ()):
            raise ValueError("its dependencies are dynamic; name a file that lists them")
        if "dependencies" not in project:
            raise ValueError("it has no project.dependencies")
        return "\n".join(map(str, project["dependencies"]))
    raise ValueError("expected pyproject.toml, pylock.toml or a requirements file")


def _locked(packages: Any) -> Iterator[str]:
    for package in packages:
        name = package.get("name", "")
        if "version" not in package or not ("wheels" in package or "sdist" in package):
            raise ValueError(f"{name} is locked to a folder, a repository or an archive, not to a version of an index")
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        hashes = sorted(
            {f"--hash={kind}:{digest}" for file in files for kind, digest in file.get("hashes", {}).items()}
        )
        marker = f" ; {package['marker']}" if "marker" in package else ""
        yield " ".join([f"{name}=={package['version']}{marker}", *hashes])
