"""The example's job files: a flow and the command line leave one model, and one parameter in one file changes both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/demo"))
import changed  # noqa: E402


@pytest.mark.timeout(900)  # builds the environment of the example's requirements
def test_one_parameter_in_one_file_changes_all(server: dict[str, str], home: Path, tmp_path: Path) -> None:
    """Metrics and models are equal here and there, and both are others after the change."""
    path = f"{Path(sys.executable).parent}:{ROOT / '.venv/bin'}:{os.environ['PATH']}"
    env = {**server, "MLCTL_HOME": str(home), "PATH": path}

    def run(*words: str | Path, at: Path) -> str:
        done = subprocess.run(words, cwd=at, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def left() -> tuple[str, str]:
        """The newest training's metrics, and its model's digest."""
        found = json.loads(run("mlctl", "describe", "digits-train", "--json", at=ROOT))
        return json.dumps(found["metrics"]), changed.digest(Path(found["outputs"]["model"]))

    def all_of(examples: Path) -> set[tuple[str, str]]:
        run("mlctl", "run", "jobs/train.yaml", "--input", f"data={data}", at=examples / "01-local")
        by_hand = left()
        run(sys.executable, "prefect_flow.py", at=examples / "04-orchestrators")
        return {by_hand, left()}

    run("mlctl", "run", "jobs/process.yaml", at=changed.EXAMPLES / "01-local")
    data = run("mlctl", "outputs", "digits-process", "data", at=ROOT).strip()
    [(metrics, model)] = all_of(changed.EXAMPLES)
    [(other_metrics, other_model)] = all_of(changed.copy(tmp_path / "changed"))
    assert metrics != other_metrics and model != other_model
    assert len(list((home / "runs").glob("digits-train-*/[0-9]*"))) == 4
