"""The job files of examples/01-local, one after the other, on any platform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlctl import jobfile, lifecycle
from mlctl.backend import Backend
from mlctl.runs import Key, Result, State

JOBS = Path(__file__).parents[1] / "examples" / "01-local" / "jobs"
PATIENCE = 900.0


def run_all(made: Backend, params: Mapping[str, Any] | None = None) -> dict[str, Result]:
    """Process, train (with `params`), batch inference, each fed with what the one before it left."""
    done: dict[str, Result] = {}
    for kind, feeds in (
        ("process", {}),
        ("train", {"data": "process"}),
        ("batch-inference", {"data": "process", "model": "train"}),
    ):
        inputs = {name: done[source].outputs[name] for name, source in feeds.items()}
        job = jobfile.load(JOBS / f"{kind}.yaml", params=params if kind == "train" else None, inputs=inputs)
        key = Key(f"example-{made.name}-{params}", job.name)
        execution = lifecycle.Execution(job, made, made.settings, key)  # type: ignore[attr-defined]
        outcome = execution.wait(execution.start(), PATIENCE)
        log = [line for logs in lifecycle.lines(made, outcome.run) for line in logs.lines]
        assert outcome.status is not None
        assert outcome.status.state is State.SUCCEEDED, (outcome.status, log)
        done[kind] = made.result(outcome.run)
    return done
