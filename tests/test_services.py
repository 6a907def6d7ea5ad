"""Which cluster `make services` takes for the tests, makes, or leaves alone; and its registry, a real one.

There is no kind here: a program of that name answers as kind does, and notes what it was asked. So this shows what is decided,
and not that kind makes a cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KIND = """\
#!/bin/sh
here=$(dirname "$0")
echo "$@" >>"$here/asked"
case "$1 $2" in
    "get clusters") cat "$here/clusters" 2>/dev/null || echo "No kind clusters found." >&2 ;;
    "get kubeconfig") echo "current-context: kind-$4" ;;
    "create cluster")
        [ ! -e "$here/broken" ] || { echo "ERROR: failed to create cluster: no engine" >&2; exit 1; }
        echo "$4" >"$here/clusters" ;;
    "delete cluster") rm "$here/clusters" ;;
    *) exit 9 ;;
esac
"""
PROGRAMS = "/usr/bin:/bin"


@dataclass
class Machine:
    """A home, and programs, of a test's own."""

    at: Path
    kind: bool = True

    def __post_init__(self) -> None:
        (self.at / "bin").mkdir()
        if self.kind:
            (self.at / "bin/kind").write_text(KIND)
            (self.at / "bin/kind").chmod(0o755)

    @property
    def kubeconfig(self) -> Path:
        return self.at / "cache/mlctl/kind.kubeconfig"

    @property
    def asked(self) -> list[str]:
        """What kind was asked to do, beside what it was asked to tell."""
        path = self.at / "bin/asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith("get ")]

    def services(self, verb: str, service: str = "kubernetes", **env: str) -> subprocess.CompletedProcess[str]:
        own = {"HOME": str(self.at), "XDG_CACHE_HOME": str(self.at / "cache"), "PATH": f"{self.at}/bin:{PROGRAMS}"}
        words = [sys.executable, str(ROOT / "tools/services"), verb, service]
        return subprocess.run(words, env={**own, **env}, capture_output=True, text=True, timeout=120, check=False)

    def context(self, name: str, server: str) -> Path:
        """A kubeconfig with that context, and another."""
        path = self.at / "config"
        config = {
            "current-context": name,
            "clusters": [
                {"name": "c", "cluster": {"server": server}},
                {"name": "d", "cluster": {"server": "https://prod"}},
            ],
            "users": [{"name": "u", "user": {"token": "t"}}, {"name": "v", "user": {"token": "of production"}}],
            "contexts": [
                {"name": name, "context": {"cluster": "c", "user": "u"}},
                {"name": "prod", "context": {"cluster": "d", "user": "v"}},
            ],
        }
        path.write_text(yaml.safe_dump(config))
        return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def server() -> Iterator[str]:
    """Something that answers, and lets nobody in."""

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_the_context_of_a_kind_cluster_is_taken(machine: Machine, server: str) -> None:
    """A copy of it, with nothing of the other clusters that its file names; and kind makes none."""
    config = machine.context("kind-mine", server)
    done = machine.services("up", KUBECONFIG=str(config))
    assert (done.returncode, machine.asked) == (0, []), done.stderr
    assert f"export MLCTL_TEST_KUBECONFIG={machine.kubeconfig}" in done.stdout
    kept = machine.kubeconfig.read_text()
    assert yaml.safe_load(kept)["current-context"] == "kind-mine" and server in kept and "prod" not in kept
    assert machine.kubeconfig.stat().st_mode & 0o077 == 0
    assert (
        machine.services("env", KUBECONFIG=str(config)).stdout == f"export MLCTL_TEST_KUBECONFIG={machine.kubeconfig}\n"
    )


@pytest.mark.parametrize("name", ["prod", "kind-of-production"])
def test_another_context_is_left_alone(machine: Machine, server: str, name: str) -> None:
    """Whatever its name, where its server is elsewhere; and one line says so."""
    config = machine.context(name, server if name == "prod" else "https://203.0.113.7:6443")
    done = machine.services("up", KUBECONFIG=str(config))
    (said,) = [line for line in done.stdout.splitlines() if name in line]
    assert "left alone" in said and "MLCTL_TEST_KUBECONFIG" in said
    assert machine.asked == [f"create cluster --name mlctl --kubeconfig {machine.kubeconfig} --wait 180s"]
    assert yaml.safe_load(machine.kubeconfig.read_text())["current-context"] == "kind-mlctl"


def test_a_cluster_that_is_given_is_taken(machine: Machine) -> None:
    done = machine.services("up", MLCTL_TEST_KUBECONFIG="/given", KUBECONFIG="/other")
    assert "export MLCTL_TEST_KUBECONFIG=/given" in done.stdout and machine.asked == []


def test_a_cluster_is_made_once_and_removed(machine: Machine) -> None:
    """Where kind is here and has none of ours; a stopped cluster's context, which nothing answers at, is not taken."""
    config = str(machine.context("kind-stopped", "http://127.0.0.1:9"))
    for _ in range(2):
        done = machine.services("up", KUBECONFIG=config)
        assert done.returncode == 0 and f"MLCTL_TEST_KUBECONFIG={machine.kubeconfig}" in done.stdout, done.stderr
    assert [line.split()[0] for line in machine.asked] == ["create"]
    assert "removed" in machine.services("down").stdout and not machine.kubeconfig.exists()
    assert "none of ours" in machine.services("down").stdout
    assert [line.split()[0] for line in machine.asked] == ["create", "delete"]


def test_a_cluster_of_another_name_is_no_ours(machine: Machine) -> None:
    (machine.at / "bin/clusters").write_text("mine\nmlctl-old\n")
    assert "none of ours" in machine.services("down").stdout and machine.asked == []


def test_kind_that_fails_is_an_error_of_one_line(machine: Machine) -> None:
    (machine.at / "bin/broken").touch()
    done = machine.services("up")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr == (
        f"kubernetes: kind create cluster --name mlctl --kubeconfig {machine.kubeconfig} --wait 180s: "
        "ERROR: failed to create cluster: no engine\n"
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "current-context: kind-x", "clusters: {a: 1}\ncurrent-context: kind-x"]
)
def test_a_kubeconfig_that_is_none_finds_nothing(tmp_path: Path, text: str) -> None:
    machine = Machine(tmp_path, kind=False)
    (tmp_path / "config").write_text(text)
    done = machine.services("env", KUBECONFIG=f"{tmp_path}/config{os.pathsep}/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


needs_registry = pytest.mark.skipif(
    not shutil.which("docker-registry"), reason="no docker-registry: apt-get install docker-registry"
)


@needs_registry
def test_another_registry_is_not_taken_for_ours(machine: Machine) -> None:
    """Two that are started at once may both have found a port free: the later one takes another."""
    another = machine.at / "another"
    first = machine.services("up", "registry", XDG_CACHE_HOME=str(another))
    try:
        config = (another / "mlctl/registry/config.yml").read_text()
        (taken,) = re.findall(r"127\.0\.0\.1:\d+", config)
        ours = machine.at / "cache/mlctl/registry"
        ours.mkdir(parents=True)
        (ours / "config.yml").write_text(config.replace(str(another), str(machine.at / "cache")))
        said = machine.services("up", "registry")
        assert "was started" in first.stdout and "was started" in said.stdout, (first, said)
        (address,) = re.findall(r"127\.0\.0\.1:\d+", said.stdout)
        assert address != taken
        machine.services("down", "registry", XDG_CACHE_HOME=str(another))
        with urllib.request.urlopen(f"http://{address}/v2/_catalog", timeout=10) as answer:
            assert json.load(answer) == {"repositories": []}
    finally:
        machine.services("down", "registry")
        machine.services("down", "registry", XDG_CACHE_HOME=str(another))


@needs_registry
def test_a_registry_is_started_once_and_keeps_its_place(machine: Machine) -> None:
    """Through a kill -9, too: it is started again at the address that names of images have."""
    said = [machine.services("up", "registry") for _ in range(2)]
    try:
        (address,) = {found[0] for done in said if (found := re.search(r"127\.0\.0\.1:\d+", done.stdout))}
        pid = int((machine.at / "cache/mlctl/registry/pid").read_text())
        assert "was started" in said[0].stdout and "answers" in said[1].stdout, said
        with urllib.request.urlopen(f"http://{address}/v2/_catalog", timeout=10) as answer:
            assert json.load(answer) == {"repositories": []}
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        again = machine.services("up", "registry").stdout
        assert "was started" in again and address in again
    finally:
        ended = machine.services("down", "registry").stdout
    assert "its images are kept" in ended
    assert "none of ours" in machine.services("down", "registry").stdout
