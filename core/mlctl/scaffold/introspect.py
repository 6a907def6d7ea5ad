"""What can be seen of a script without running it: what it takes, reads, writes and needs, and what can't be seen."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlctl.errors import InvalidConfig

from .arguments import Argument, argparse_arguments
from .decorated import click_arguments, typer_arguments
from .requirements import Needs, needs
from .source import UNKNOWN, FromEnv, Source

__all__ = ["Draft", "describe"]

_STRANGERS = {
    "absl.flags": "absl.flags", "absl.app": "absl.flags", "configargparse": "configargparse", "defopt": "defopt", "docopt": "docopt",
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
    """Read a training script, without running it. `folder` is the code's, the script's own unless said.

    Raises InvalidConfig, with file and line, for what is not a Python 3 script below `folder`; Unavailable where the disk fails.
    """
    source = Source(script.absolute())
    folder = (folder or script.parent).resolve()
    path = source.path.resolve()
    if not path.is_relative_to(folder):
        raise InvalidConfig(
            f"{script}: is not below {folder}, the folder whose code is shipped; run this from a folder above it"
        )
    source.path = path
    read = [*argparse_arguments(source), *click_arguments(source), *typer_arguments(source)]
    arguments = _one_each([each for each in read if isinstance(each, Argument)])
    needed = needs(source, folder)
    in_defaults = {argument.variable for argument in arguments}
    return Draft(
        script=path,
        folder=folder,
        launch=_launch(source, folder),
        description=_description(source),
        arguments=tuple(arguments),
        environment=tuple(
            {value.name: value for value, _ in source.environment if value.name not in in_defaults}.values()
        ),
        sagemaker=any(value.name.startswith("SM_") for value, _ in source.environment),
        needs=needed,
        notes=(*(each for each in read if isinstance(each, str)), *_notes(source, bool(arguments)), *needed.notes),
    )


def _one_each(arguments: list[Argument]) -> list[Argument]:
    """Where several write the same name, the last one passed would win: none of them is."""
    count = Counter(argument.name.replace("-", "_") for argument in arguments)
    return [
        argument if argument.obstacle or count[argument.name.replace("-", "_")] == 1
        else replace(argument, obstacle="another argument sets the same name")
        for argument in arguments
    ]  # fmt: skip


def _launch(source: Source, folder: Path) -> tuple[str, ...]:
    relative = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(source.tree))
    if not relative and source.path.name != "__main__.py":
        name = source.path.relative_to(folder).as_posix()
        return "python", f"./{name}" if name.startswith("-") else name
    base = source.path.parent
    while base != folder and (base / "__init__.py").is_file():
        base = base.parent
    base = base if base != source.path.parent or base == folder else folder
    parts = source.path.relative_to(base).with_suffix("").parts
    return "python", "-m", ".".join(parts[:-1] if parts[-1] == "__main__" and len(parts) > 1 else parts)


def _description(source: Source) -> str:
    text = (ast.get_docstring(source.tree) or "").strip().partition("\n\n")[0]
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def _notes(source: Source, has_arguments: bool) -> Iterator[str]:
    names = {name for name in source.imported.values()} | {top.partition(".")[0] for top in source.imported.values()}
    for module, shown in _STRANGERS.items():
        if module in names or any(name.startswith(module + ".") for name in names):
            yield f"{shown} reads the command line in its own way: add what it should get to the command"
    if not has_arguments and _reads_argv(source):
        yield "sys.argv is read by the script itself: add what it should get to the command"
    if sum(1 for node in ast.walk(source.tree) if _makes_parser(source, node)) > 1:
        yield "several parsers: their arguments are taken together here; remove those that aren't this run's"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"/opt/ml(/|$)", node.value):
            if not _default(source, node):
                yield f"{source.at(node)}: {node.value!r} is a place of SageMaker's, the same on no other platform: take it as an argument"
    unset = sorted(
        value.name
        for value, _ in source.environment
        if value.fallback is UNKNOWN and not value.name.startswith(("SM_", "MLCTL_")) and value.name not in _EVERYWHERE
    )
    for name in dict.fromkeys(unset):
        where = "distribution: sets it" if name in _DISTRIBUTED else "set it under env:, or under secrets: if it is one"
        yield f"the environment variable {name} has to be set: {where}"


def _reads_argv(source: Source) -> bool:
    """Whether the script takes words of its command line, other than its own name, by itself."""
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and source.called(node) == "sys.argv":
            parent = source.parents.get(node)
            if not (isinstance(parent, ast.Subscript) and source.value(parent.slice) == 0):
                return True
    return False


def _makes_parser(source: Source, node: ast.AST) -> bool:
    """Whether it makes a parser that reads a command line, not one that others take as a parent."""
    if not isinstance(node, ast.Call) or source.called(node.func) != "argparse.ArgumentParser":
        return False
    return not any(word.arg == "add_help" and source.value(word.value) is False for word in node.keywords)


def _default(source: Source, node: ast.AST) -> bool:
    """Whether a literal is what an argument or a variable falls back to."""
    outer = source.parents.get(node)
    if isinstance(outer, ast.keyword):
        return outer.arg == "default"
    return isinstance(outer, ast.Call) and source.called(outer.func) in ("os.environ.get", "os.getenv")
