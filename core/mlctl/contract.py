"""The contract inside the job, seen from outside: every platform sets these names by what is here.

runtime.py is the other side. It stands alone, so it spells them again; the tests run one against the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .command import fill, text_of, variable
from .errors import Unsupported
from .job import Job
from .runs import Metric

__all__ = [
    "METRIC", "WORD", "Places", "argv", "distribution", "environment", "exportable", "metrics", "passable", "torchrun", "variable",
]  # fmt: skip


METRIC = "mlctl.metric "
"""How the line of the log begins that says what a line of the metrics file does."""

WORD = 100_000
"""Bytes that a word or a variable of a process may have: Linux takes 128 KiB, the name included."""


@dataclass(frozen=True)
class Places:
    """Where things are inside the job: paths as the job sees them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params_file: str
    metrics_file: str
    checkpoints: str


def _values(job: Job, places: Places, escape: Callable[[str], str]) -> Callable[[tuple[str, str]], str]:
    sources: dict[str, Mapping[str, Any]] = {"params": job.values(), "inputs": places.inputs, "outputs": places.outputs}
    return lambda placeholder: escape(text_of(sources[placeholder[0]][placeholder[1]]))


def argv(job: Job, places: Places, escape: Callable[[str], str] = str) -> list[str]:
    """The words to run. `escape` makes of a value what the platform turns back into it; it may raise ValueError."""
    return job.command.rendered(_values(job, places, escape))


def environment(job: Job, places: Places, run: str, escape: Callable[[str], str] = str) -> dict[str, str]:
    """The variables that the contract promises, and the job's own `env`."""
    values = _values(job, places, escape)
    return {
        **{name: fill(text, values) for name, text in job.env.items()},
        "MLCTL_PARAMS_FILE": places.params_file,
        "MLCTL_METRICS_FILE": places.metrics_file,
        "MLCTL_CHECKPOINT_DIR": places.checkpoints,
        "MLCTL_RUN": run,
        **{f"MLCTL_INPUT_{variable(name)}": path for name, path in places.inputs.items()},
        **{f"MLCTL_OUTPUT_{variable(name)}": path for name, path in places.outputs.items()},
    }


def passable(
    job: Job,
    texts: Iterable[str],
    most: int = 0,
    what: str = "a word or variable",
    way: str = "read it from MLCTL_PARAMS_FILE",
) -> None:
    """Raises InvalidJob for words and variables that can't be passed to a process; of more than `most` bytes, too, unless 0."""
    for text in texts:
        if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
            raise job.fail(("command",), "a null byte, or half a character, can't be passed to a process")
        if most and len(text.encode()) > most:
            raise job.fail(("command",), f"{what} of more than {most} bytes can't be passed to a process; {way}")


def exportable(job: Job, env: Iterable[str]) -> None:
    """Raises InvalidJob for the name of a variable that a launch script can't set."""
    for name in env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise job.fail(("env", name), "no name that a shell can export; use letters, digits and '_'")


def distribution(job: Job, other: str) -> tuple[str, int] | None:
    """Its type, torchrun or env, and the processes of a node, where a launch script starts them.

    Raises Unsupported for another type, of which `other` says how it is had.
    """
    asked = job.distribution
    if asked is None:
        return None
    if asked.type not in ("torchrun", "env"):
        text = f"got '{asked.type}', and torchrun and env are started here; {other}"
        raise Unsupported(str(job.fail(("distribution", "type"), text)))
    if asked.type == "env" and asked.processes_per_node > 1:
        text = "one process is started on each node; torchrun starts more"
        raise Unsupported(str(job.fail(("distribution", "processes_per_node"), text)))
    return asked.type, asked.processes_per_node


def torchrun(nodes: int, processes: int, rank: str, master: str, port: int | str) -> str:
    """A line of a launch script that has torchrun start the job's words, `processes` on each of `nodes`; `rank` is the node's own.

    `rank`, `master` and `port` are as a shell reads them, quoted where they need it.
    """
    return (
        f"set -- torchrun --nnodes={nodes} --nproc-per-node={processes} --node-rank={rank} "
        f'--master-addr={master} --master-port={port} --no-python "$@"'
    )


def metrics(lines: Iterable[str]) -> tuple[Metric, ...]:
    """The points in a metrics file. A line that is none, such as one cut short by a crash, is passed over."""
    points = []
    for line in lines:
        try:
            data = json.loads(line)
            value, step, time = float(data["value"]), data.get("step"), data.get("time")
            points.append(
                Metric(
                    str(data["name"]), value, None if step is None else int(step), None if time is None else float(time)
                )
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
    return tuple(points)
