"""One folder in every orchestrator, on every platform: a row an orchestrator, a column a platform, nothing changed but the
profile.

An orchestrator's suite has a class of a few lines, and a way to have its wrapper run a job file:

    class TestMatrix(MatrixContract):
        row = "prefect"

        @pytest.fixture
        def ask(self): return run_it        # the run's URL and its metrics

Its suite fills the columns of this machine and of the stand-ins. Docker and Kubernetes are an engine and a cluster, started
once for all rows: tests/platforms/kubernetes/test_kubernetes_matrix.py has each suite's cells of them run there.

python tests/matrix.py     # the table, as the suites found it
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

import standins
from mlctl import api, config
from mlctl.runs import Run, State

ROWS = {"airflow": "Airflow", "kfp": "KFP", "prefect": "Prefect", "jenkins": "Jenkins"}
COLUMNS = ("local", *standins.MANAGED, *standins.CONTAINERS)
FOUND = standins.ROOT / "build/matrix"

Ask = Callable[[Path], tuple[str, Mapping[str, float]]]
"""Has the orchestrator run a job's file: the run's URL, and the metrics that the orchestrator was told."""

JOB = """\
kind: train
name: matrix
code: ../code
command: python fit.py --slope ${{params.slope}} --data ${{inputs.data}} --model ${{outputs.model}}
params: {slope: 3}
inputs: {data: ../data.csv}
outputs: {model: {type: model}}
"""
CODE = """\
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--slope", type=float)
parser.add_argument("--data")
parser.add_argument("--model", type=pathlib.Path)
args = parser.parse_args()
points = [tuple(map(float, line.split(","))) for line in open(args.data)]
loss = sum((args.slope * x - y) ** 2 for x, y in points) / len(points)
(args.model / "model.json").write_text(json.dumps({"slope": args.slope}))
with open(os.environ["MLCTL_METRICS_FILE"], "a") as metrics:
    metrics.write(json.dumps({"name": "loss", "value": loss}) + "\\n")
"""
DATA, LOSS = "0,1\n1,3\n2,5\n3,7\n", 1.5  # of 3x beside 2x + 1


class MatrixContract:
    """A cell a test."""

    row: ClassVar[str]

    @pytest.fixture
    def folder(self, project: Path) -> Path:
        """Where the orchestrator has the project."""
        return project

    @pytest.fixture
    def ask(self) -> Ask:
        raise NotImplementedError("the suite of an orchestrator gives it")

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # an SDK may leave its connections to the collector
    @pytest.mark.parametrize("platform", standins.GIVEN or ("local", *standins.MANAGED))
    def test_cell(self, platform: str, folder: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with contextlib.ExitStack() as stack:
            env: Mapping[str, str] = {}
            job = written(folder)
            if platform != "local":
                standin = stack.enter_context(standins.running(platform, tmp_path / "standin"))
                standins.name_accounts(folder / "mlctl.yaml", {platform: standin})
                env = standin.env
            for name, value in {**env, "MLCTL_PROFILE": "dev" if platform == "local" else platform}.items():
                monkeypatch.setenv(name, value)
            self.note(platform, "FAILED")
            url, metrics = ask(job)
            assert Run.parse(url).backend == platform
            state = api.reach(url, config.load(folder / "jobs/train.yaml")).status().state
            assert (state, metrics["loss"]) == (State.SUCCEEDED, LOSS)
            self.note(platform, f"{state.value}, loss {metrics['loss']:g}")

    def note(self, platform: str, came: str) -> None:
        """Keeps what came of a cell for the table."""
        path = cell(self.row, platform)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(came)


def written(folder: Path) -> Path:
    """Writes the folder, with the targets and profiles of examples/02-swap; the job's file."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "code").mkdir()
    (folder / "jobs/train.yaml").write_text(JOB)
    (folder / "code/fit.py").write_text(CODE)
    (folder / "data.csv").write_text(DATA)
    shutil.copy(standins.ROOT / "examples/02-swap/mlctl.yaml", folder)
    return folder / "jobs/train.yaml"


def cell(row: str, platform: str) -> Path:
    """Where it is kept what came of it, of the last time that it was tried."""
    return FOUND / row / platform


def found(row: str, platform: str) -> str:
    """What came of a cell; "-" where it was never tried."""
    path = cell(row, platform)
    return path.read_text() if path.exists() else "-"


def main() -> int:
    """Prints the table; 1 where a cell failed, or was not tried although CI provides everything."""
    rows = [["", *COLUMNS], *([title, *(found(row, name) for name in COLUMNS)] for row, title in ROWS.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    came = [text for row in rows[1:] for text in row[1:]]
    return 1 if "FAILED" in came or ("-" in came and os.environ.get("CI")) else 0


if __name__ == "__main__":
    raise SystemExit(main())
