"""What a job reads and reports, the same on every platform. One file, no dependencies, Python 3.8 and later.

    from mlctl import runtime as job           # or copy this file beside your code: `import mlctl_runtime as job`

    data = pandas.read_csv(job.inputs["train"])
    for epoch in range(job.params.get("epochs", 3)):
        if job.stopping():                     # SIGTERM came: the platform wants the machine back
            save(job.checkpoint_dir / "last.pt")
            raise SystemExit(143)              # "stopped"; to end with 0 would say that the training is complete
        job.log_metric("loss", train(data, lr=job.params["lr"]), step=epoch)
    save(job.outputs["model"] / "model.pt")

    params            read-only mapping                  inputs["train"]   Path of a file or a folder
    outputs["model"]  Path of an existing folder         checkpoint_dir    Path of an existing folder
    run               the run's URL, or ""               rank, world_size  which of how many processes this is
    log_metric(name, value, step)                        log_metrics({name: value, ...}, step)
    stopping()        has SIGTERM come?                  on_stop(callback) called when it comes

Everything is read when it is asked for; importing this changes nothing. It is looked for in this order:

1. An mlctl run: the environment variables MLCTL_RUN, MLCTL_PARAMS_FILE, MLCTL_INPUT_<NAME>, MLCTL_OUTPUT_<NAME>,
   MLCTL_CHECKPOINT_DIR and MLCTL_METRICS_FILE. Each may be set by hand as well. <NAME> is the name in upper case, each
   character but A-Z and 0-9 replaced by `_`. In a run, what the job file does not declare is an error, not a default.
2. A SageMaker job that knows nothing of mlctl: its hyperparameters, channels and folders in /opt/ml. A channel is a
   folder, even where it holds one file.
3. Neither, as in a notebook or a plain `python train.py`: no params, `./outputs/<name>`, `./checkpoints`, metrics are
   printed only, and an input is an error that says how to give it.

There is no call that sets defaults: `job.params.get("lr", 0.1)` is one, and the place of the others is the job file,
where every platform and every record of a run sees them.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, SupportsFloat, SupportsIndex, TypeVar

CONTRACT = 1
"""The version of what is described above; it grows when a job could notice a change."""

_SAGEMAKER = Path("/opt/ml")
_T = TypeVar("_T")


# Params, inputs, outputs


class NotGiven(KeyError):
    """A param, input or output that this job does not have. The message says where to declare it."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own would show its repr


class _Lazy(Mapping[str, _T]):
    """A mapping that is read when asked; `absent` gives, or refuses, what is not in it."""

    def __init__(
        self, read: Callable[[], dict[str, _T]], key: Callable[[str], str], absent: Callable[[str, dict[str, _T]], _T]
    ) -> None:
        self._read, self._key, self._absent = read, key, absent

    def __getitem__(self, name: str) -> _T:
        table, key = self._read(), self._key(name)
        return table[key] if key in table else self._absent(name, table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())


class _LazyFolders(_Lazy[Path]):
    def __getitem__(self, name: str) -> Path:
        return _made(super().__getitem__(name))


def _refuse(kind: str, name: str, known: Mapping[str, object], outside: str = "") -> NotGiven:
    has = ", ".join(sorted(known)) or "none"
    return NotGiven(f"no {kind} {name!r} (this job has: {has}): declare it under `{kind}s:` in the job file{outside}")


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]", "_", name.lower())


def _from_environment(prefix: str) -> dict[str, Path]:
    return {_key(var[len(prefix) :]): Path(path) for var, path in os.environ.items() if var.startswith(prefix) and path}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache(maxsize=None)
def _read_params() -> dict[str, Any]:
    if os.environ.get("MLCTL_PARAMS_FILE"):
        return _read_object(Path(os.environ["MLCTL_PARAMS_FILE"]))
    return {} if os.environ.get("MLCTL_RUN") else _sagemaker_params()


def _absent_param(name: str, known: dict[str, Any]) -> Any:
    raise _refuse("param", name, known, f"; outside a run, set MLCTL_PARAMS_FILE or use params.get({name!r}, DEFAULT)")


def _read_inputs() -> dict[str, Path]:
    return {**({} if os.environ.get("MLCTL_RUN") else _sagemaker_inputs()), **_from_environment("MLCTL_INPUT_")}


def _absent_input(name: str, known: dict[str, Path]) -> Path:
    raise _refuse("input", name, known, f"; outside a run, set MLCTL_INPUT_{_key(name).upper()}=PATH")


def _read_outputs() -> dict[str, Path]:
    return _from_environment("MLCTL_OUTPUT_")


def _absent_output(name: str, known: dict[str, Path]) -> Path:
    if os.environ.get("MLCTL_RUN"):  # to make one up would lose what is written there
        raise _refuse("output", name, known)
    return _sagemaker_output(name) or Path("outputs", name)


params: Mapping[str, Any] = _Lazy(_read_params, str, _absent_param)
"""The job's params, with the types that they have in JSON. `dict(params)` where a library insists on a dict."""

inputs: Mapping[str, Path] = _Lazy(_read_inputs, _key, _absent_input)
"""Path of each input, a file or a folder. Iterating gives names as the environment keeps them: `train_set`."""

outputs: Mapping[str, Path] = _LazyFolders(_read_outputs, _key, _absent_output)
"""Path of each output, an existing folder: what is in it when the job ends is the output."""


# What is one value, and read late all the same: see __getattr__ at the end

run: str
"""The URL of this run (on SageMaker without mlctl, the job's ARN or name); "" outside one."""

checkpoint_dir: Path
"""An existing folder that a retry of this job finds again as it was left."""

rank: int
"""The number of this process, from 0 (RANK); on SageMaker, where RANK isn't set, of this node; 0 alone."""

world_size: int
"""How many processes (WORLD_SIZE), or nodes, there are in all; 1 alone."""


# Metrics


def log_metric(name: str, value: SupportsFloat, step: SupportsIndex | None = None) -> None:
    """Report one value of a metric, as `log_metrics({name: value}, step)` does."""
    log_metrics({name: value}, step)


def log_metrics(metrics: Mapping[str, SupportsFloat], step: SupportsIndex | None = None) -> None:
    """Report metrics: a line of JSON for each in the metrics file, and the same after `mlctl.metric ` on stdout.

        {"name": "loss", "value": 0.1, "step": 3, "time": 1700000000.0}

    A value is anything that `float()` takes but text: numpy's and torch's scalars too. JSON has no NaN and no infinity:
    they are the strings "NaN", "Infinity" and "-Infinity", which any JSON reader takes and `float()` reads back. `step`
    is an integer or None; `time` is seconds since 1970, UTC. Any number of processes may report at once: on a local
    disk their lines never mix. Raises TypeError, and writes nothing, where a value is not a number; but neither a
    broken stdout nor an unwritable file ends a training: that is said once, on stderr.
    """
    now = time.time()
    number = None if step is None else operator.index(step)
    lines = []
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"metric {name!r}: expected a name, got {type(name).__name__}")
        line = {"name": name, "value": _json_number(name, value), "step": number, "time": now}
        lines.append(json.dumps(line, allow_nan=False) + "\n")  # ASCII: fits any encoding that stdout may have
    if lines:
        _append("".join(lines))
        _print("".join("mlctl.metric " + line for line in lines))


def _json_number(name: str, value: SupportsFloat) -> float | str:
    try:
        if isinstance(value, (str, bytes, bytearray)):
            raise TypeError("text is not a number")  # float() would take "0.1"
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"metric {name!r}: expected a real number, got {type(value).__name__}: {error}") from error
    return number if math.isfinite(number) else json.dumps(number)


def _append(lines: str) -> None:
    path = os.environ.get("MLCTL_METRICS_FILE")
    if not path:
        return
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(file, lines.encode())  # once: a second write could land behind another process's lines
        finally:
            os.close(file)
        if written < len(lines):
            raise OSError(f"only {written} of {len(lines)} bytes fitted")
    except OSError as error:
        _warn("metrics file", f"{path}: {error}; metrics are missing from it, the job goes on")


def _print(lines: str) -> None:
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except (AttributeError, BlockingIOError, RuntimeError, ValueError) as error:
        # None (pythonw); a full pipe; in the middle of a write of its own, for a callback of on_stop; closed
        _warn("stdout", f"{error}; metrics are missing from it, the job goes on")
    except OSError as error:
        _warn("stdout", f"{error}; it goes to {os.devnull} from here on, and the job goes on")
        _discard_stdout()


def _discard_stdout() -> None:
    """Python flushes stdout once more when it ends, and would turn a broken pipe or a full disk into exit code 120."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (AttributeError, OSError, ValueError):
        pass


_warned: set[str] = set()


def _warn(about: str, message: str) -> None:
    """Once per process and matter, on stderr, and never an error of its own."""
    if about not in _warned:
        _warned.add(about)
        try:
            sys.stderr.write(f"mlctl.runtime: {about}: {message}\n")
            sys.stderr.flush()
        except (AttributeError, OSError, RuntimeError, ValueError):
            pass


# Stopping


def stopping() -> bool:
    """True once SIGTERM came: save, and end. Ask often, such as once an epoch or every hundred batches.

    A job that asks for neither this nor `on_stop` dies of SIGTERM as any program does. From the first call on, the
    first SIGTERM only sets what this returns, calls the callbacks, and then the handler that was there before, if any:
    the job ends by itself. The second SIGTERM finds what was there before, so it kills at once. Platforms kill too,
    when their grace is over: 30 seconds on many.

    Python takes signals in its main thread only. Where another thread is the first to ask, this warns, changes nothing
    and returns False: ask once in the main thread, and it works in all. Forked children (data loaders, pools) start as
    if nobody had asked: they die of SIGTERM, unless they ask themselves.
    """
    _watch()
    return _stopping


def on_stop(callback: Callable[[], object]) -> None:
    """Call `callback()` once when SIGTERM comes, or now if it has come. See `stopping`, which holds here as well.

    It runs in the main thread between any two instructions of it, so let it set a flag, such as `trainer.should_stop`,
    rather than save a half-updated model. The job goes on after it; a callback that ends it calls `sys.exit(143)`.
    """
    _callbacks.append(callback)
    _watch()
    if _stopping:
        _call_back()


_stopping = _watching = False
_before: Any = signal.SIG_DFL
_callbacks: list[Callable[[], object]] = []


def _watch() -> None:
    global _watching, _before
    if _watching:
        return
    import threading

    if threading.current_thread() is not threading.main_thread():
        _warn("stop", "first asked for outside the main thread, so SIGTERM just ends this job: call stopping() there")
        return
    _watching, _before = True, signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _on_sigterm)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _on_sigterm(signum: int, frame: Any) -> None:
    global _stopping
    _stopping = True
    _let_go()
    _call_back()
    if callable(_before):
        _before(signum, frame)


def _call_back() -> None:
    while _callbacks:
        _callbacks.pop(0)()


def _let_go() -> None:
    """Put back what was there before, unless somebody has put a handler over ours; None is one that isn't Python's."""
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)


def _forget() -> None:
    """In a forked child: a pool that ends its workers by SIGTERM would wait for ever for one that only sets a flag."""
    global _watching
    if _watching:
        _watching = False
        _callbacks.clear()
        _let_go()


# SageMaker, where the job was not started by mlctl


def _processing_job() -> dict[str, Any] | None:
    file = _SAGEMAKER / "config" / "processingjobconfig.json"
    return _read_object(file) if file.is_file() else None


def _training_folder(variable: str, *usual: str) -> Path | None:
    """What `variable` says, else the usual folder where this is a SageMaker training job, else None."""
    if os.environ.get(variable):
        return Path(os.environ[variable])
    return _SAGEMAKER.joinpath(*usual) if (_SAGEMAKER / "input" / "config").is_dir() else None


def _sagemaker_params() -> dict[str, Any]:
    """Hyperparameters are strings that hold JSON, mostly; SM_HPS, in SageMaker's own images, has them decoded."""
    if os.environ.get("SM_HPS"):
        return dict(json.loads(os.environ["SM_HPS"]))
    file = _SAGEMAKER / "input" / "config" / "hyperparameters.json"
    texts = _read_object(file) if file.is_file() else {}
    own = ("sagemaker_", "_tuning_objective_metric")  # what SageMaker puts there for itself
    return {name: _decoded(text) for name, text in texts.items() if not name.startswith(own)}


def _decoded(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _sagemaker_inputs() -> dict[str, Path]:
    job = _processing_job()
    if job is not None:
        declared = _local_paths(job.get("ProcessingInputs"), "InputName", "S3Input")
        return {**_folders(_SAGEMAKER / "processing" / "input"), **declared}
    return {**_folders(_SAGEMAKER / "input" / "data"), **_from_environment("SM_CHANNEL_")}


def _sagemaker_output(name: str) -> Path | None:
    """None where this is no SageMaker job. What a processing job doesn't declare goes where its folders usually are."""
    job = _processing_job()
    if job is not None:
        declared = (job.get("ProcessingOutputConfig") or {}).get("Outputs")
        usual = _SAGEMAKER / "processing" / "output" / name
        return _local_paths(declared, "OutputName", "S3Output").get(_key(name), usual)
    if name == "model":
        return _training_folder("SM_MODEL_DIR", "model")
    data = _training_folder("SM_OUTPUT_DATA_DIR", "output", "data")
    return data / name if data else None


def _local_paths(declared: Any, name: str, place: str) -> dict[str, Path]:
    """From a processing job's own record, in which names and folders are chosen apart."""
    entries = [entry for entry in declared or [] if (entry.get(place) or {}).get("LocalPath")]
    return {_key(entry[name]): Path(entry[place]["LocalPath"]) for entry in entries}


def _folders(parent: Path) -> dict[str, Path]:
    return {_key(folder.name): folder for folder in parent.iterdir() if folder.is_dir()} if parent.is_dir() else {}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected a JSON object, got what is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value


# The single values


def _run() -> str:
    variables = ("MLCTL_RUN", "TRAINING_JOB_ARN", "TRAINING_JOB_NAME")
    known = next(filter(None, map(os.environ.get, variables)), None)
    return known or (_processing_job() or {}).get("ProcessingJobArn") or ""


def _checkpoint_dir() -> Path:
    return _made(_training_folder("MLCTL_CHECKPOINT_DIR", "checkpoints") or Path("checkpoints"))


def _place() -> tuple[int, int]:
    """(rank, world size)"""
    env = os.environ
    if env.get("RANK") and env.get("WORLD_SIZE"):
        return int(env["RANK"]), int(env["WORLD_SIZE"])
    if env.get("SM_CURRENT_HOST") and env.get("SM_HOSTS"):
        hosts = sorted(json.loads(env["SM_HOSTS"]))
        return hosts.index(env["SM_CURRENT_HOST"]), len(hosts)
    for folder in (_SAGEMAKER / "input" / "config", _SAGEMAKER / "config"):
        if (folder / "resourceconfig.json").is_file():
            config = _read_object(folder / "resourceconfig.json")
            return sorted(config["hosts"]).index(config["current_host"]), len(config["hosts"])
    return 0, 1


_SINGLE: dict[str, Callable[[], object]] = {
    "run": _run,
    "checkpoint_dir": _checkpoint_dir,
    "rank": lambda: _place()[0],
    "world_size": lambda: _place()[1],
}

if not TYPE_CHECKING:  # a type checker has the declarations above, and should go on to find a mistyped name

    def __getattr__(name: str) -> object:
        if name not in _SINGLE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _SINGLE[name]()
