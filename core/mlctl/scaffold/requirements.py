"""What a script needs installed: what its project says, or else what it and the modules beside it import."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlctl.errors import MlctlError

from .source import Source

__all__ = ["Needs", "needs", "project_of"]

_DISTRIBUTIONS = {
    "attr": "attrs", "bs4": "beautifulsoup4", "Crypto": "pycryptodome", "cv2": "opencv-python",
    "dateutil": "python-dateutil", "docx": "python-docx", "dotenv": "python-dotenv", "faiss": "faiss-cpu", "fitz": "PyMuPDF",
    "git": "GitPython", "imblearn": "imbalanced-learn", "jwt": "PyJWT", "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient", "OpenSSL": "pyOpenSSL", "PIL": "pillow", "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary", "skimage": "scikit-image", "sklearn": "scikit-learn", "skopt": "scikit-optimize",
    "umap": "umap-learn", "yaml": "PyYAML", "zmq": "pyzmq",
    "azure.ai.ml": "azure-ai-ml", "azure.identity": "azure-identity", "azure.storage.blob": "azure-storage-blob",
    "google.cloud.bigquery": "google-cloud-bigquery", "google.cloud.storage": "google-cloud-storage",
    "google.protobuf": "protobuf", "ruamel.yaml": "ruamel.yaml", "snowflake.connector": "snowflake-connector-python",
}  # fmt: skip
"""Those whose name isn't that of the module."""
_SHARED = {"azure", "google", "ruamel", "snowflake"}  # many distributions put their modules below these
_GONE = {"asynchat", "asyncore", "cgi", "cgitb", "crypt", "distutils", "imghdr", "imp", "pipes", "smtpd", "telnetlib"}
"""Modules that newer Pythons dropped."""


@dataclass(frozen=True)
class Needs:
    """`file` is the requirements file that is there; where there is none, `proposed` are the lines of one."""

    file: Path | None
    proposed: tuple[str, ...]
    python_path: str
    """The folder, below the code's, that has to be on Python's path; empty where none has."""
    notes: tuple[str, ...]


def needs(source: Source, folder: Path) -> Needs:
    """What the script needs, looked for from its own folder up to `folder`."""
    imports = _Imports(source, folder)
    said = (imports.python_path, tuple(imports.notes))
    for place in _upwards(source.path.parent, folder):
        if (place / "requirements.txt").is_file():
            return Needs(place / "requirements.txt", (), *said)
        listed = _dependencies(place / "pyproject.toml")
        if listed:
            return Needs(None, ("# Copied from pyproject.toml.", *listed), *said)
    lines = [
        f"# {name}    # imported in a try: perhaps not needed" for name in sorted(imports.optional - imports.required)
    ]
    if imports.required:
        lines = [
            "# What the code imports. Pin each to the version that you use: `pip freeze` shows it.",
            *sorted(imports.required),
            *lines,
        ]
    return Needs(None, tuple(lines), *said)


def project_of(folder: Path) -> Path:
    """The nearest folder upwards, inside the repository, that says what its code needs; `folder` itself where none does."""
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
    marks = ("requirements.txt", "pyproject.toml", "setup.py", "mlctl.yaml")
    places = _upwards(folder, root)
    return next((place for place in places if any((place / mark).is_file() for mark in marks)), folder)


def _upwards(start: Path, root: Path) -> Iterator[Path]:
    """`start` and the folders above it, as far as `root`."""
    for place in (start, *start.parents):
        yield place
        if place == root:
            return


def _dependencies(pyproject: Path) -> list[str]:
    """`project.dependencies`; empty without them, and on Python 3.10, which can't read TOML."""
    if sys.version_info >= (3, 11) and pyproject.is_file():
        import tomllib

        try:
            listed = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
            return [one for one in listed if re.split(r"[^A-Za-z0-9._-]", one)[0].lower() != "mlctl"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
    return []


class _Imports:
    """The third-party modules that a script imports, itself or through modules of its own project."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.bases = [source.path.parent, folder, folder / "src"]
        self.folder = folder
        self.required: set[str] = set()
        self.optional: set[str] = set()
        self.python_path = ""
        self.notes: list[str] = []
        self._seen = {source.path}
        self._queue = [source]
        while self._queue:
            self._read(self._queue.pop())

    def _read(self, source: Source) -> None:
        for node in source.nodes:
            if isinstance(node, ast.Import):
                for one in node.names:
                    self._module(source, node, one.name)
            elif isinstance(node, ast.ImportFrom) and node.level:
                above = source.path.parents[min(node.level, len(source.path.parents)) - 1]
                stem = (node.module or "").replace(".", "/")
                self._local([above / stem / one.name for one in node.names] + [above / stem])
            elif isinstance(node, ast.ImportFrom) and node.module:
                for one in node.names:
                    self._module(source, node, f"{node.module}.{one.name}")

    def _module(self, source: Source, node: ast.AST, dotted: str) -> None:
        top = dotted.partition(".")[0]
        if top in sys.stdlib_module_names or _for_types(source, node):
            return
        parts = dotted.split(".")
        for base in self.bases:
            if (base / f"{top}.py").is_file() or any((base / top).glob("*.py")):
                self._local([base.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)])
                if base != self.bases[0]:
                    self.python_path = base.relative_to(self.folder).as_posix()
                return
        if top in ("mlctl", "mlctl_runtime"):  # never a requirement: the name on the public index is a stranger's
            text = "a job has no mlctl installed: put a copy of mlctl/runtime.py beside it, as mlctl_runtime.py, and import that"
            self.notes.append(f"{source.at(node)}: imports {top}: {text}")
            return
        if top in _GONE:
            self.notes.append(
                f'{source.at(node)}: imports {top}, which newer Pythons dropped: set python: to one that has it, such as "3.11"'
            )
            return
        known = next(
            (".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in _DISTRIBUTIONS), ""
        )
        if not known and top in _SHARED:
            self.notes.append(
                f"{source.at(node)}: imports {dotted}: add the distribution that has it to the requirements"
            )
            return
        (self.optional if _tried(source, node) else self.required).add(_DISTRIBUTIONS[known] if known else top)

    def _local(self, stems: list[Path]) -> None:
        """Read the modules of the project that lie at `stems`, once."""
        for path in [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]:
            if path not in self._seen and path.is_file():
                self._seen.add(path)
                try:
                    source = Source(path)
                except MlctlError as error:
                    self.notes.append(str(error))
                    continue
                self._queue.append(source)
                if source.calls("add_argument"):
                    self.notes.append(f"{path.name}: defines arguments, which were not read: add them to the command")


def _for_types(source: Source, node: ast.AST) -> bool:
    """Whether an import is for a type checker only."""
    tests = [outer.test for outer in source.ancestors(node) if isinstance(outer, ast.If)]
    return any(source.called(test).endswith("TYPE_CHECKING") for test in tests)


def _tried(source: Source, node: ast.AST) -> bool:
    """Whether the script goes on where an import fails, or only imports because another has failed."""
    tries = [outer for outer in source.ancestors(node) if isinstance(outer, ast.Try)]
    caught = [ast.unparse(handler.type) for outer in tries for handler in outer.handlers if handler.type]
    return any("ImportError" in names or "ModuleNotFoundError" in names for names in caught)
