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
_READ = {
    "data",
    "train",
    "training",
    "test",
    "testing",
    "validation",
    "csv",
    "parquet",
    "jsonl",
    "tsv",
    "input",
    "inputs",
    "in",
}
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
_MODEL_FILES = {
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".h5",
    ".keras",
    ".onnx",
    ".safetensors",
    ".bin",
    ".cbm",
}
_SECRET = re.compile(
    r"(.*_)?(password|passwd|secret|api_?key|access_?key|secret_?key|(api|auth|access|hf|bearer)_token|token)"
)


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
    words = _words(argument.name)
    param = Role("params", _named(argument.name))
    if argument.obstacle:
        return param
    placed = _sagemaker(argument)
    if placed:
        return placed
    if argument.choices or argument.type != "string" or (words[-1] in _NO_PATH and not argument.path):
        return param
    if argument.default == "-" or (argument.path and argument.default is UNKNOWN):
        return param  # standard input or output
    default = argument.default if isinstance(argument.default, str) else ""
    path_like = bool(re.search(r"[/\\]|\.[A-Za-z]\w{0,9}$", default))
    core = [word for word in words if word not in _PLACES]
    somewhere = core != words or path_like or bool(argument.path)
    name, file = _named("_".join(core or words)), _file(argument, words, default)
    model = "model" if _MODELS & set(core) or PurePosixPath(default).suffix in _MODEL_FILES else ""

    if _TRAINED_BEFORE & set(core):
        return Role("inputs", name, "model") if argument.required or path_like else param
    if set(core) <= _MODELS and core and not argument.path:
        read = kind != "train"
        if somewhere or (read and argument.required):
            return Role("inputs" if read else "outputs", name, "model", "" if read else file)
        return param
    if argument.path == "write" or (
        core and (core[0] in _WRITTEN or (somewhere and set(core) <= _WRITTEN_SOMEWHERE | _MODELS))
    ):
        told = (
            argument.required
            or default
            or argument.path
            or words[-1] in ("dir", "directory", "folder", *_WRITTEN - {"save", "saved"})
        )
        return (
            Role("outputs", name, model, file) if told else param
        )  # else it saves only on demand: a file or a folder, who knows
    if argument.default is UNKNOWN:
        return param  # such as a place beside the script, which finds it
    known = _READ_SOMEWHERE if somewhere or len(core) > 1 else _READ
    if argument.path == "read" or (core and (core[0] in ("in", "input", "inputs") or set(core) <= known)):
        return Role("inputs", name)
    return param


def _words(name: str) -> list[str]:
    """`trainData`, `train-data` and `traindata` as [train, data]."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    name = re.sub(r"^(data|in|out|log|model|work|save|train|test)(dir|file|path|data)$", r"\1_\2", name)
    return re.findall(r"[a-z0-9]+", name) or [""]


def _sagemaker(argument: Argument) -> Role | None:
    variable, default = argument.variable, argument.default if isinstance(argument.default, str) else ""
    channel = re.fullmatch(r"SM_CHANNEL_(\w+)", variable) or re.match(
        r"/opt/ml/(?:input/data|processing/input)/(\w+)", default
    )
    if channel:
        return Role("inputs", _named(channel[1].lower()))
    if variable == "SM_MODEL_DIR" or default.startswith("/opt/ml/model"):
        return Role("outputs", "model", "model")
    if variable in ("SM_OUTPUT_DATA_DIR", "SM_OUTPUT_DIR") or default.startswith(
        ("/opt/ml/output", "/opt/ml/processing/output")
    ):
        return Role("outputs", "output")
    return None


def _file(argument: Argument, words: list[str], default: str) -> str:
    """The file that an output is, where its default, its name or its type says that it is one; else empty: a folder."""
    if PurePosixPath(default).suffix:
        return PurePosixPath(default).name
    if words[-1] in ("csv", "parquet", "json", "jsonl", "tsv") and len(words) > 1:
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
