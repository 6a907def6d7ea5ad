"""Every orchestrator's wrapper on a real engine and on a real cluster, by the profile alone: the two columns of the matrix that
no stand-in fills. One engine and one cluster serve all; each row runs in its own environment, as its own suite does it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import base_image
import docker
import docker_engine
import pytest
from kubernetes_harness import Place

import matrix
import standins

PATIENCE = 900.0  # seconds for a suite's own server, and two small jobs; some 40 on a quiet machine


@pytest.fixture(scope="module")
def engine(place: Place) -> Iterator[str]:
    """Its address; it has the image `base`. A cluster of one's own says what an engine lacks: so that comes first."""
    if os.getuid() != 0:
        pytest.skip("dockerd needs root")
    with docker_engine.temporary() as made, contextlib.closing(docker.DockerClient(made.address)) as client:
        base_image.make(client, "base")
        yield made.address


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("row", matrix.ROWS)
def test_orchestrator(
    row: str, place: Place, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    python = standins.ROOT / ".envs" / row / "bin/python"
    if not python.parents[1].joinpath(".ready").exists():
        pytest.skip(f"no environment of {matrix.ROWS[row]}: make test-{row} makes it")
    given = {
        "docker": standins.Standin({}, {"backend": "docker", "host": engine, "image": "base", "network": "none"}),
        "kubernetes": standins.Standin({}, {"backend": "kubernetes", **place.target(tmp_path)}),
    }
    for platform in given:
        matrix.cell(row, platform).unlink(missing_ok=True)
    (suite,) = (standins.ROOT / "tests" / row).glob("test_*matrix.py")
    said = _run([str(python), "-m", "pytest", str(suite), "-k", "test_cell"], given)
    came = {platform: matrix.found(row, platform) for platform in given}
    if set(came.values()) == {"-"}:
        pytest.skip(next((line for line in said.splitlines() if line.startswith("SKIPPED")), said))
    with capsys.disabled():
        print(f"\n{matrix.ROWS[row]:8}", *(f"{platform}: {text}" for platform, text in came.items()), sep="  ")
    assert came == dict.fromkeys(given, f"succeeded, loss {matrix.LOSS:g}")


def _run(words: list[str], given: dict[str, standins.Standin]) -> str:
    """What a suite says that passes. Interrupted, it is asked to end, as it has servers to end."""
    env = {**os.environ, standins.GIVES: json.dumps({name: asdict(each) for name, each in given.items()})}
    with subprocess.Popen(
        words, cwd=standins.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as suite:
        try:
            said, _ = suite.communicate(timeout=PATIENCE)
        except BaseException:
            suite.terminate()
            raise
    assert suite.returncode == 0, said
    return said
