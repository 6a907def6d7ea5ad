"""The cluster that `make services` brings up where there is no kind: up until it is ended, and then nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of its own, with the programs that the machine's has."""
    import cluster

    if not cluster.built():
        pytest.skip("no programs of a Kubernetes server; tools/services/cluster.py builds them, in minutes")
    (tmp_path / "mlctl").mkdir()
    for made in cluster.CACHE.glob("kubernetes-*"):
        (tmp_path / "mlctl" / made.name).symlink_to(made)
    return tmp_path


def test_a_cluster_is_started_once_and_stays_until_it_is_ended(cache: Path) -> None:
    from kubernetes import client, config

    programs = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "kind").exists()]
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": os.pathsep.join(programs), "KUBECONFIG": "/nowhere"}
    env = {name: text for name, text in env.items() if name not in ("MLCTL_TEST_KUBECONFIG", "DOCKER_HOST")}

    def services(verb: str) -> str:
        words = [sys.executable, str(ROOT / "tools/services"), verb, "kubernetes"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        said = [services("up") for _ in range(2)]
        assert "was started" in said[0] and "our own cluster answers" in said[1], said
        found = dict(re.findall(r"export (\w+)=(\S+)", services("env")))
        assert found.keys() == {"KUBECONFIG", "CLUSTER_DOCKER_HOST"}, "the tests would break what a user works with"
        with config.new_client_from_config(found["KUBECONFIG"]) as api:
            (node,) = client.CoreV1Api(api).list_node().items
            assert {each.type: each.status for each in node.status.conditions}["Ready"] == "True"
        words = [shutil.which("docker") or "docker", "-H", found["CLUSTER_DOCKER_HOST"], "image", "ls", "-q"]
        assert subprocess.run(words, capture_output=True, check=True).stdout
    finally:
        ended = services("down")
    assert "ended our own cluster" in ended
    assert services("env") == "" and "none of ours" in services("down")
    folder = Path(found["KUBECONFIG"]).parent.parent
    assert not folder.exists()
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
    assert not [line for line in running if str(folder).encode() in line or str(cache).encode() in line]


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
