"""What an argument is to the job: a parameter, an input or an output, told by its default, its type and the words of its name.

A guess, and the job file says so. The strongest evidence comes first: a variable or a folder of SageMaker's, a type that opens
a file, the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .arguments import Argument
from .source import UNKNOWN

__all__ = ["Role", "address", "role", "secret"]

_PLACES = {"dir", "directory", "path", "file", "filename", "folder", "root"}
_FOLDERS = {"dir", "directory", "folder", "out", "output", "outputs"}
_TABLES = {"csv", "parquet", "jsonl", "tsv"}
_READ = {"data", "train", "training", "test", "testing", "validation", "input", "inputs", "in"} | _TABLES
_READ_SOMEWHERE = _READ | {
    "dataset", "datasets", "set", "val", "valid", "eval", "evaluation", "dev", "holdout", "raw", "corpus", "image", "images",
    "label", "labels", "feature", "features", "source", "src", "json",
}  # fmt: skip
_WRITTEN = {"out", "output", "outputs", "save", "saved"}
_WRITTEN_SOMEWHERE = _WRITTEN | {
    "log", "logs", "tensorboard", "work", "result", "results", "prediction", "predictions", "report", "reports", "metrics",
    "plot", "plots", "artifact", "artifacts", "export",
}  # fmt: skip
_MODELS = {"model", "models", "checkpoint", "checkpoints", "ckpt"}
_TRAINED_BEFORE = {"pretrained", "resume", "restore", "load", "init"}
_NO_PATH = {
    "size", "dim", "dims", "format", "mode", "type", "name", "names", "column", "columns", "col", "cols", "key", "keys", "freq",
    "frequency", "interval", "every", "step", "steps", "epoch", "epochs", "shape", "channel", "channels", "prefix", "suffix",
    "strategy", "metric", "split", "sep", "delimiter", "encoding", "version", "id", "ids", "seed", "ratio", "fraction", "share",
    "workers", "length", "best", "only", "limit", "count", "tokens", "rate", "schema", "language", "dtype",
}  # fmt: skip
_MODEL_FILE = re.compile(r".*\.(pt|pth|ckpt|pkl|pickle|joblib|h5|keras|onnx|safetensors|bin|cbm)")
_SECRET = re.compile(r"(.*_)?(password|passwd|secret|(api|access|secret)_?key|((api|auth|access|hf|bearer)_)?token)")


@dataclass(frozen=True)
class Role:
    """`what` is params, inputs or outputs; `name` is the name there."""

    what: str
    name: str
    type: str = ""
    """`model` for an input or output that is one."""
    file: str = ""
    """The file below an output's folder, where the script wants a file."""


def role(argument: Argument, kind: str) -> Role:
    """What `argument` is to a job of `kind`."""
    found = None if argument.obstacle else _of_sagemaker(argument) or _of_name(argument, kind)
    return found or Role("params", _named(argument.name))


def _of_sagemaker(argument: Argument) -> Role | None:
    variable, default = argument.variable, argument.default if isinstance(argument.default, str) else ""
    folder = re.match(r"/opt/ml/(?:input/data|processing/input)/(\w+)", default)
    channel = re.fullmatch(r"SM_CHANNEL_(\w+)", variable) or folder
    if channel:
        return Role("inputs", _named(channel[1].lower()))
    if variable == "SM_MODEL_DIR" or default.startswith("/opt/ml/model"):
        return Role("outputs", "model", "model")
    output = default.startswith(("/opt/ml/output", "/opt/ml/processing/output"))
    return Role("outputs", "output") if output or variable in ("SM_OUTPUT_DATA_DIR", "SM_OUTPUT_DIR") else None


def _of_name(argument: Argument, kind: str) -> Role | None:
    words = _words(argument.name)
    if argument.choices or argument.type != "string" or (words[-1] in _NO_PATH and not argument.path):
        return None
    if argument.default == "-" or (argument.path and argument.default is UNKNOWN):
        return None  # standard input or output
    default = argument.default if isinstance(argument.default, str) else ""
    like_path = bool(re.search(r"[/\\]|\.[A-Za-z]\w{0,9}$", default))
    core = [word for word in words if word not in _PLACES]
    placed = core != words or like_path or bool(argument.path)  # it says that it is a place, and not only what is there
    name, file = _named("_".join(core or words)), _file(argument, words, default)

    if _TRAINED_BEFORE & set(core):
        return Role("inputs", name, "model") if argument.required or like_path else None
    if core and set(core) <= _MODELS and not argument.path:
        if kind == "train":
            return Role("outputs", name, "model", file) if placed else None
        return Role("inputs", name, "model") if placed or argument.required else None
    if _written(argument, core, placed):
        if not (argument.required or default or argument.path or words[-1] in _FOLDERS):
            return None  # saved on demand only, and whether to a file or a folder can't be seen
        model = "model" if _MODELS & set(core) or _MODEL_FILE.fullmatch(default) else ""
        return Role("outputs", name, model, file)
    if argument.default is UNKNOWN:
        return None  # such as a place beside the script, which finds it
    return Role("inputs", name) if _read(argument, core, placed) else None


def _written(argument: Argument, core: list[str], placed: bool) -> bool:
    if argument.path or not core:
        return argument.path == "write"
    return core[0] in _WRITTEN or (placed and set(core) <= _WRITTEN_SOMEWHERE | _MODELS)


def _read(argument: Argument, core: list[str], placed: bool) -> bool:
    if argument.path or not core:
        return argument.path == "read"
    return core[0] in ("in", "input", "inputs") or set(core) <= (_READ_SOMEWHERE if placed or len(core) > 1 else _READ)


def _words(name: str) -> list[str]:
    """`trainData`, `train-data` and `traindata` as [train, data]."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    name = re.sub(r"^(data|in|out|log|model|work|save|train|test)(dir|file|path|data)$", r"\1_\2", name)
    return re.findall(r"[a-z0-9]+", name) or [""]


def _file(argument: Argument, words: list[str], default: str) -> str:
    """The file that an output is, where its default, its name or its type says that it is one; else empty: a folder."""
    if PurePosixPath(default).suffix:
        return PurePosixPath(default).name
    if words[-1] in _TABLES | {"json"} and len(words) > 1:
        return f"{'_'.join(words[:-1])}.{words[-1]}"
    return "_".join(words) if words[-1] in ("file", "filename") or argument.path else ""


def _named(name: str) -> str:
    """As a job file can have it: a letter first, then letters, digits and '_', at most 63."""
    return re.sub(r"^[^A-Za-z]+", "", re.sub(r"[^A-Za-z0-9_]", "_", name))[:63] or "value"


def secret(argument: Argument) -> bool:
    """Whether its name says that its value is a secret."""
    return argument.type == "string" and bool(_SECRET.fullmatch(argument.name.lower().replace("-", "_")))


def address(argument: Argument, folder: Path, script: Path) -> str:
    """What the script reads by default: a URI, or the absolute path of what lies below `folder` or beside `script`; else empty."""
    default = argument.default if isinstance(argument.default, str) else ""
    if re.match(r"[a-z][a-z0-9+.-]*://", default):
        return default
    if not default or default.startswith(("/", "~")):
        return ""
    for base in (folder, script.parent):
        path = (base / default).resolve()
        if path.exists() and path not in (folder, *folder.parents):
            return str(path)
    return ""
