"""The contract inside the job, seen from outside: every platform sets these names by what is here.

runtime.py is the other side. It stands alone, so it spells them again; the tests run one against the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .command import fill, text_of, variable
from .job import Job
from .runs import Metric

__all__ = ["METRIC", "Places", "argv", "environment", "metrics", "torchrun", "variable"]


METRIC = "mlctl.metric "
"""How the line of the log begins that says what a line of the metrics file does."""


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
