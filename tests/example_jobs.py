"""The job files of examples/01-local, one after the other, on any platform."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlctl import jobfile, lifecycle
from mlctl.backend import Backend
from mlctl.runs import Key, Result, State

JOBS = Path(__file__).parents[1] / "examples" / "01-local" / "jobs"
PATIENCE = 900.0
DIGEST = """\
kind: process
name: digest
command: {shell: 'sha256sum "$MLCTL_INPUT_MODEL/model.joblib"'}
inputs: {model: {type: model}}
"""


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


def points(done: Mapping[str, Result]) -> dict[str, list[tuple[str, float, int | None]]]:
    """Every point of each job's metrics, but for its time."""
    return {kind: [(each.name, each.value, each.step) for each in result.points] for kind, result in done.items()}


def told(ask: Callable[..., str], folder: Path) -> dict[str, Any]:
    """What the newest runs of the three jobs left: every epoch's metrics, the prediction's, and the digest of the model as
    a job of that platform finds it. `ask` runs the words of a command and gives what it says; `folder` takes a job's file."""
    (folder / "digest.yaml").write_text(DIGEST)
    train, predict = (
        json.loads(ask("mlctl", "describe", f"digits-{kind}", "--json")) for kind in ("train", "batch-inference")
    )
    assert train["submitted"]["target"] == predict["submitted"]["target"]
    points = json.loads(ask("mlctl", "metrics", "digits-train", "--history", "--json"))
    ask("mlctl", "run", str(folder / "digest.yaml"), "--input", f"model={train['outputs']['model']}")
    (digest,) = [word for word in ask("mlctl", "logs", "digest").split() if len(word) == 64]
    return {
        "target": train["submitted"]["target"],
        "epochs": [(point["name"], point["step"], point["value"]) for point in points],
        "predicted": predict["metrics"],
        "model": digest,
    }
