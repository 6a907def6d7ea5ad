"""What can be seen of a script without running it: what it takes, reads, writes and needs, and what can't be seen."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlctl.errors import InvalidConfig

from .argparse_reader import argparse_arguments
from .arguments import Argument, sentence
from .click_reader import click_arguments
from .requirements import Needs, needs, project_of
from .source import UNKNOWN, FromEnv, Source
from .typer_reader import typer_arguments

__all__ = ["Draft", "describe"]

_STRANGERS = {
    "absl.app": "absl", "absl.flags": "absl", "configargparse": "configargparse", "defopt": "defopt", "docopt": "docopt",
    "fire": "fire", "gin": "gin", "hydra": "hydra", "jsonargparse": "jsonargparse", "lightning.pytorch.cli": "LightningCLI",
    "optparse": "optparse", "plac": "plac", "pytorch_lightning.cli": "LightningCLI", "simple_parsing": "simple_parsing",
    "tensorflow.compat.v1.flags": "tf.flags", "transformers.HfArgumentParser": "HfArgumentParser", "tyro": "tyro",
}  # fmt: skip
"""What else reads a command line, by the name that it is imported under."""

_EVERYWHERE = {"HOME", "LANG", "PATH", "PWD", "PYTHONPATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}
_DISTRIBUTED = {"LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"}


@dataclass(frozen=True)
class Draft:
    """A script as `describe` saw it; `job_yaml` makes the job of it. Paths are absolute."""

    script: Path
    folder: Path
    """The code: what is shipped, and what the job works in."""
    launch: tuple[str, ...]
    """The words that start the script there: `python train.py`, or `python -m churn.train` for a module of a package."""
    python_path: tuple[str, ...]
    """Folders below `folder` that have to be on Python's path."""
    description: str
    arguments: tuple[Argument, ...]
    environment: tuple[FromEnv, ...]
    """The variables that it reads outside its arguments' defaults."""
    sagemaker: bool
    """Whether it reads variables of SageMaker's."""
    needs: Needs
    notes: tuple[str, ...]
    """What wasn't understood and what to look at, a line each."""


def describe(script: Path, folder: Path | None = None) -> Draft:
    """Read a training script, without running it.

    `folder` is the code's; unless said, that of the script's project: the nearest one upwards, inside the repository, that has
    a requirements.txt, pyproject.toml, setup.py or mlctl.yaml, else the script's own. Raises InvalidConfig, with file and line,
    for what is not a Python 3 script below `folder`; Unavailable where the disk fails.
    """
    source = Source(script.absolute())
    source.path = source.path.resolve()
    try:
        return _draft(source, folder.resolve() if folder else project_of(source.path.parent))
    except RecursionError:
        raise InvalidConfig(f"{script}: nested too deeply to be read") from None


def _draft(source: Source, folder: Path) -> Draft:
    if not source.path.is_relative_to(folder):
        raise InvalidConfig(f"{source.path}: expected a script below {folder}, the folder whose code is shipped")
    read = [*argparse_arguments(source), *click_arguments(source), *typer_arguments(source)]
    arguments = _one_each([each for each in read if isinstance(each, Argument)])
    needed = needs(source, folder)
    launch, base = _launch(source, folder)
    outside = [
        value for value in source.environment.values() if value.name not in {each.variable for each in arguments}
    ]
    return Draft(
        script=source.path,
        folder=folder,
        launch=launch,
        python_path=tuple(dict.fromkeys(path for path in (base, needed.python_path) if path)),
        description=_description(source),
        arguments=tuple(arguments),
        environment=tuple({value.name: value for value in outside}.values()),
        sagemaker=any(value.name.startswith("SM_") for value in source.environment.values()),
        needs=needed,
        notes=(*(each for each in read if isinstance(each, str)), *_notes(source, arguments), *needed.notes),
    )


def _one_each(arguments: list[Argument]) -> list[Argument]:
    """Where several write the same name, the last one passed would win: none of them is."""
    count = Counter(argument.name.replace("-", "_") for argument in arguments)
    return [
        argument
        if argument.obstacle or count[argument.name.replace("-", "_")] == 1
        else replace(argument, obstacle="another argument sets the same name")
        for argument in arguments
    ]


def _launch(source: Source, folder: Path) -> tuple[tuple[str, ...], str]:
    """The words that start the script in `folder`, and the folder below it that its package has to be found in, if another."""
    relative = any(isinstance(node, ast.ImportFrom) and node.level for node in source.nodes)
    if not relative and source.path.name != "__main__.py":
        name = source.path.relative_to(folder).as_posix()
        return ("python", f"./{name}" if name.startswith("-") else name), ""
    base = source.path.parent
    while base != folder and (base / "__init__.py").is_file():
        base = base.parent
    if base == source.path.parent:  # no package says where it begins
        base = folder
    parts = source.path.relative_to(base).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__main__" and len(parts) > 1 else parts)
    return ("python", "-m", module), "" if base == folder else base.relative_to(folder).as_posix()


def _description(source: Source) -> str:
    return sentence((ast.get_docstring(source.tree) or "").strip().partition("\n\n")[0])


def _notes(source: Source, arguments: list[Argument]) -> Iterator[str]:
    """What to look at that isn't one argument's matter."""
    imported = [f"{name}." for name in source.imported.values()]
    for shown in dict.fromkeys(shown for module, shown in _STRANGERS.items() if _among(module, imported)):
        yield f"{shown} reads the command line in its own way: add what it should get to the command"
    if not arguments and _reads_argv(source):
        yield "sys.argv is read by the script itself: add what it should get to the command"
    if sum(_makes_parser(source, node) for node in source.nodes) > 1:
        yield "several parsers: their arguments are taken together here; remove those that aren't this run's"
    positional = [source.function(call) for call, _ in source.calls("add_argument") if _positional(source, call)]
    if len(set(positional)) > 1:
        yield "positional arguments are added in several functions: check their order in the command"
    for node in source.nodes:
        if (
            isinstance(node, ast.Constant)
            and re.match(r"/opt/ml(/|$)", str(node.value))
            and not _is_default(source, node)
        ):
            yield f"{source.at(node)}: {node.value!r} is there on SageMaker only; elsewhere the script needs it as an argument"
    for value in dict.fromkeys(source.environment.values()):
        if value.fallback is UNKNOWN and not value.name.startswith(("SM_", "MLCTL_")) and value.name not in _EVERYWHERE:
            how = (
                "distribution: sets it"
                if value.name in _DISTRIBUTED
                else "set it under env:, or secrets: where it is one"
            )
            yield f"the environment variable {value.name} has to be set: {how}"


def _among(module: str, imported: list[str]) -> bool:
    return any(name.startswith(f"{module}.") for name in imported)


def _positional(source: Source, call: ast.Call) -> bool:
    return bool(call.args) and bool(re.match(r"\w", str(source.value(call.args[0]))))


def _reads_argv(source: Source) -> bool:
    """Whether the script takes words of its command line, other than its own name, by itself."""
    read = [
        node
        for node in source.nodes
        if isinstance(node, (ast.Attribute, ast.Name)) and source.called(node) == "sys.argv"
    ]
    outer = [source.parents.get(node) for node in read]
    return any(not isinstance(node, ast.Subscript) or source.value(node.slice) != 0 for node in outer)


def _makes_parser(source: Source, node: ast.AST) -> bool:
    """Whether it makes a parser that reads a command line, not one that others take as a parent."""
    if not isinstance(node, ast.Call) or source.called(node.func) != "argparse.ArgumentParser":
        return False
    return not any(word.arg == "add_help" and source.value(word.value) is False for word in node.keywords)


def _is_default(source: Source, node: ast.AST) -> bool:
    """Whether a literal is what an argument or a variable falls back to."""
    outer = source.parents.get(node)
    if isinstance(outer, ast.keyword):
        return outer.arg == "default"
    return isinstance(outer, ast.Call) and source.called(outer.func) in ("os.environ.get", "os.getenv")
