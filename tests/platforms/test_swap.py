"""examples/02-swap: one folder, one command a target, the same metrics and the same model wherever it ran."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import system

import example_jobs
import standins

Platforms = Mapping[str, standins.Standin]
PATIENCE = 600  # seconds for three small jobs and what they require


class Folder:
    """A copy of the examples, with the link from one to the other, and in it the names of the stand-ins' accounts."""

    def __init__(self, at: Path, platforms: Platforms) -> None:
        shutil.copytree(standins.ROOT / "examples", at / "examples", symlinks=True)
        self.at = at / "examples/02-swap"
        standins.name_accounts(self.at / "mlctl.yaml", platforms)
        path = f"{Path(sys.executable).parent}:{standins.ROOT / '.venv/bin'}:{os.environ['PATH']}"  # where uv is
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLCTL_")}
        self.env = {**clean, "MLCTL_HOME": str(at / "home"), "XDG_CONFIG_HOME": str(at / "config"), "PATH": path}
        self.platforms = platforms

    def _ask(self, target: str, *words: str, code: int = 0) -> str:
        """What the command says, which ends with that exit code."""
        env = {**self.env, **({"MLCTL_PROFILE": target, **self.platforms[target].env} if target != "local" else {})}
        done = subprocess.run(
            words, cwd=self.at, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )  # fmt: skip
        assert done.returncode == code, f"{target}: {' '.join(words)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout + (done.stderr if code else "")

    def run(self, target: str) -> dict[str, Any]:
        """The one command; then the metrics, every epoch's, and the digest of the model as a job of the target finds it."""
        self._ask(target, "./run.sh")
        found = example_jobs.told(functools.partial(self._ask, target), self.at)
        assert found.pop("target") == target
        return found


@pytest.fixture(scope="module")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platforms]:
    """The managed platforms, in their stand-ins."""
    at = tmp_path_factory.mktemp("standins")
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(standins.running(name, at / name)) for name in standins.MANAGED}


@pytest.fixture(scope="module")
def folder(platforms: Platforms, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("folder"), platforms)


def change(made: Folder) -> Folder:
    """Changes one parameter, in one file."""
    file = made.at / "jobs/train.yaml"
    before = file.read_text()
    file.write_text(before.replace("alpha: {type: number, default: 0.001", "alpha: {type: number, default: 0.01"))
    assert file.read_text() != before
    return made


@pytest.fixture(scope="module")
def changed(platforms: Platforms, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The same, with one parameter changed."""
    return change(Folder(tmp_path_factory.mktemp("changed"), platforms))


@pytest.fixture(scope="module")
def here(folder: Folder) -> dict[str, Any]:
    """What comes of it on this machine."""
    return folder.run("local")


@pytest.fixture(scope="module")
def changed_here(changed: Folder) -> dict[str, Any]:
    return changed.run("local")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", standins.MANAGED)
def test_the_same_there(folder: Folder, here: dict[str, Any], target: str) -> None:
    assert [name for name, _, _ in here["epochs"]] == ["accuracy"] * 10
    assert folder.run(target) == here


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", standins.MANAGED)
def test_one_parameter_changed_in_one_file_changes_it_everywhere(
    changed: Folder, here: dict[str, Any], changed_here: dict[str, Any], target: str
) -> None:
    assert changed_here["epochs"] != here["epochs"]
    assert changed_here["model"] != here["model"]
    assert changed.run(target) == changed_here


@pytest.fixture(scope="module")
def local_mode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platforms]:
    """SageMaker, whose jobs its own SDK's local mode runs in containers: see sagemaker_containers.py."""
    try:
        for program, *packages in (
            ("dockerd", "docker.io", "iptables"),
            ("docker-compose", "docker-compose"),
            ("busybox", "busybox"),
        ):
            system.need(program, *packages)
    except system.Missing as reason:
        pytest.skip(str(reason))
    if os.getuid() != 0:
        pytest.skip("dockerd needs root")
    subprocess.run([standins.ROOT / "tools/env.sh", "sagemaker-local"], check=True, stdout=subprocess.DEVNULL)
    with standins.running("sagemaker", tmp_path_factory.mktemp("local-mode") / "sagemaker", "containers") as standin:
        yield {"sagemaker": standin}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_in_containers_as_sagemaker_lays_them_out(
    local_mode: Platforms, here: dict[str, Any], changed_here: dict[str, Any], tmp_path: Path
) -> None:
    """What the backend asks of SageMaker, the parameters of CreateTrainingJob and CreateProcessingJob, is given to the local
    mode of SageMaker's own SDK, which lays /opt/ml out in a real container. So this is shown by more than our stand-in:

    - the entry point is found, and starts where all that the image brings is /bin/sh, tar and Python;
    - the launcher, the params file, the requirements and the code's archive are in the channels where they are looked for;
    - an input is where the job is told, and what it leaves is where SageMaker collects it: the model, a processing job's
      outputs, the metrics of both; the next job reads it where mlctl says it is.

    Not shown, as local mode has none of it: spot, stops, limits, FastFile, several instances, the role, a training job's
    outputs beside the model (which it packs otherwise); and the two things that sagemaker_containers.py does in its place.
    """
    plain = Folder(tmp_path / "plain", local_mode)
    assert plain.run("sagemaker") == here
    other = change(Folder(tmp_path / "changed", local_mode))
    assert other.run("sagemaker") == changed_here != here


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_parameters_and_exit_codes_are_those_of_sagemakers_own_tool(local_mode: Platforms, tmp_path: Path) -> None:
    """A training without an image of its own has its parameters where AWS's framework images look; one that fails says how."""
    folder = Folder(tmp_path / "one", local_mode)
    job = {
        "kind": "train",
        "name": "fails",
        "params": {"lr": 0.1, "layers": [64, 32], "name": 'a "quoted" ${one}'},
        "command": {"shell": "cat /opt/ml/input/config/hyperparameters.json && pwd && exit 3"},
    }
    (folder.at / "fails.yaml").write_text(json.dumps(job))
    said = folder._ask("sagemaker", "mlctl", "run", "fails.yaml", code=1)
    assert "exit code: 3" in said
    (line,) = [line for line in said.splitlines() if line.startswith("{")]
    written, end = json.JSONDecoder().raw_decode(line)
    assert {name: json.loads(text) for name, text in written.items()} == job["params"]
    assert line[end:] == "/"
