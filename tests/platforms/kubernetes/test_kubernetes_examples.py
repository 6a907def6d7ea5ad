"""examples/03-containers on a cluster, by its own command: the metrics and the model of this machine, whatever the parameter."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_harness import Place

import example_jobs
import standins


class Examples:
    """A copy of them, with the volume of the test's cluster."""

    def __init__(self, place: Place, at: Path) -> None:
        shutil.copytree(standins.ROOT / "examples", at / "examples", symlinks=True)
        (at / "tools").symlink_to(standins.ROOT / "tools")
        self.at = at / "examples"
        config = self.at / "03-containers/mlctl.yaml"
        whole = yaml.safe_load(config.read_text())
        whole["targets"]["cluster"]["volumes"] = {"data": {"host": str(place.volume)}}
        config.write_text(yaml.safe_dump(whole))
        programs = (Path(sys.executable).parent, standins.ROOT / ".venv/bin")  # the last has uv
        engine = {"DOCKER_HOST": place.cluster.engine.address} if place.cluster else {}  # the node's
        self.env = {
            **os.environ,
            **engine,
            "MLCTL_TEST_KUBECONFIG": str(place.kubeconfig),
            "KUBECONFIG": str(place.kubeconfig),
            "MLCTL_HOME": str(at / "home"),
            "MLCTL_CONFIG": str(config),
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        }

    def _ask(self, profile: str, *words: str) -> str:
        env = {**self.env, "MLCTL_PROFILE": profile}
        done = subprocess.run(
            words, cwd=self.at, env=env, capture_output=True, text=True, timeout=example_jobs.PATIENCE, check=False
        )
        assert done.returncode == 0, f"{profile}: {' '.join(words)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def run(self, profile: str, *words: str) -> dict[str, Any]:
        """The example's command, and what its jobs left."""
        command = ("01-local/run.sh",) if profile == "dev" else ("03-containers/run.sh", profile)
        self._ask(profile, *command, *words)
        found = example_jobs.told(functools.partial(self._ask, profile), self.at)
        assert found.pop("target") == {"dev": "laptop", "kubernetes": "cluster"}[profile]
        return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_and_model_are_those_of_this_machine(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = Examples(place, tmp_path)
    rows = []
    for words in ((), ("--param", "epochs=3", "--param", "alpha=0.01")):
        here, there = (examples.run(profile, *words) for profile in ("dev", "kubernetes"))
        if not place.cluster:  # another Python may write another file
            here["model"] = there["model"]
        assert there == here
        rows.append((here, words))
    (first, _), (second, _) = rows
    assert len(first["epochs"]) == 10 and len(second["epochs"]) == 3
    assert first["epochs"][:3] != second["epochs"] and first["model"] != second["model"]
    with capsys.disabled():
        print("\nexamples/03-containers, accuracy and model, on this machine as on Kubernetes:")
        for found, words in rows:
            print(f"  {found['epochs'][-1][2]:.6f}  {found['model'][:12]}  {' '.join(words) or 'as written'}")
