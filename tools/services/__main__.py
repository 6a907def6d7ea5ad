"""`make services`: what the tests and examples of platforms need of a machine, brought up where it is lacking.

    python tools/services [up|down|env] [docker] [kubernetes] [registry]

A row of SERVICES a service. `up` uses what answers already; else it starts one of its own, below $XDG_CACHE_HOME/mlctl, which
keeps what takes long, and stays up until `down`. Idempotent: again, and it finds what it started. `env` prints the variables
by which what is up is found:  eval "$(python tools/services env)". Exit code 1 where a service could not be had.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from shlex import quote

import cluster
import docker_engine
import kind
import lasting
import registry
import system


@dataclass(frozen=True)
class Up:
    """A service that answers: what was done, and the variables by which it is found."""

    says: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """`up` raises system.Missing or RuntimeError where it can't be had; `find` gives what answers now, or None."""

    up: Callable[[], Up]
    down: Callable[[], str]
    find: Callable[[], Up | None]


# --- Docker


def _own_engine() -> docker_engine.Dockerd:
    return docker_engine.Dockerd(cluster.CACHE / "docker")


def docker_find() -> Up | None:
    """The engine of DOCKER_HOST, else at Docker's own socket, else ours."""
    told = os.environ.get("DOCKER_HOST")
    if told and told.startswith("ssh://"):
        return Up(f"DOCKER_HOST, {told}, is taken as it is")
    if docker_engine.answers(told or "unix:///var/run/docker.sock"):
        return Up(f"an engine answers at {told or '/var/run/docker.sock'}")
    own = _own_engine()
    if not told and docker_engine.answers(own.address):
        return Up(f"our own engine answers at {own.address}", {"DOCKER_HOST": own.address})
    return None


def docker_up() -> Up:
    """What answers, else dockerd with the host's network only, its data kept in the cache."""
    if found := docker_find():
        return found
    if told := os.environ.get("DOCKER_HOST"):
        raise RuntimeError(f"DOCKER_HOST says {told}, and nothing answers there; unset it, or start that engine")
    system.need("dockerd", "docker.io", "iptables")
    if os.getuid() != 0:
        raise RuntimeError("no engine answers, and dockerd needs root to be started; start it, or set DOCKER_HOST")
    own = _own_engine()
    own.start()
    return Up(f"dockerd was started: {own.address}, log {own.at}/log", {"DOCKER_HOST": own.address})


def docker_down() -> str:
    """Ends the engine that `up` started; its images stay in the cache. Any other is left alone."""
    own = _own_engine()
    if not own.pid:
        return "none of ours is up"
    own.stop()
    return f"ended; its images are kept in {own.at}"


# --- Kubernetes


def _own_cluster() -> lasting.Lasting:
    return lasting.Lasting(cluster.CACHE / "cluster")


def _for_users(kubeconfig: str, engine: str) -> Mapping[str, str]:
    """Not for the tests: those break their cluster's parts, and so start one of their own."""
    return {"KUBECONFIG": kubeconfig, "CLUSTER_DOCKER_HOST": engine}


def kubernetes_find() -> Up | None:
    """The cluster of MLCTL_TEST_KUBECONFIG, which its owner gives for tests; else one of kind's: the current context's, or ours;
    else ours without kind."""
    if told := os.environ.get("MLCTL_TEST_KUBECONFIG"):
        return Up(f"MLCTL_TEST_KUBECONFIG, {told}, is taken as it is", {"MLCTL_TEST_KUBECONFIG": told})
    if path := kind.current(cluster.CACHE):
        return Up("kind's cluster of the current context answers", {"MLCTL_TEST_KUBECONFIG": str(path)})
    if path := kind.own(cluster.CACHE):
        return Up(f"kind has our own cluster, {kind.NAME}", {"MLCTL_TEST_KUBECONFIG": str(path)})
    if addresses := _own_cluster().addresses:
        return Up("our own cluster answers", _for_users(*addresses))
    return None


def kubernetes_up() -> Up:
    """What is there, else a cluster of kind's where that is here, else one of Kubernetes 1.20, whose programs are built first."""
    if found := kubernetes_find():
        return found
    if name := kind.stranger():
        print(
            f"kubernetes: the context {name} may be anybody's, and is left alone; MLCTL_TEST_KUBECONFIG=FILE names a cluster"
        )
    if shutil.which("kind"):
        path = kind.create(cluster.CACHE)
        return Up(f"kind made a cluster, {kind.NAME}", {"MLCTL_TEST_KUBECONFIG": str(path)})
    own = _own_cluster()
    addresses = own.start()
    return Up(f"a cluster of Kubernetes 1.20 was started, its log {own.at}/log", _for_users(*addresses))


def kubernetes_down() -> str:
    """Removes the cluster that `up` made; the programs stay in the cache."""
    ended = ["ended our own cluster; its programs are kept"] if _own_cluster().stop() else []
    if kind.delete(cluster.CACHE):
        ended.append(f"removed kind's cluster {kind.NAME}")
    return "; ".join(ended) or "none of ours is up"


# --- A registry


def _own_registry() -> registry.Registry:
    return registry.Registry(cluster.CACHE / "registry")


def registry_find() -> Up | None:
    """Ours. The tests start one of their own, as they want it empty."""
    own = _own_registry()
    return Up(f"our own registry answers; build.repository: {own.address}/NAME") if own.pid and own.answers() else None


def registry_up() -> Up:
    """One of our own, its images kept in the cache."""
    if found := registry_find():
        return found
    own = _own_registry()
    own.start()
    return Up(f"a registry was started, its log {own.at}/log; build.repository: {own.address}/NAME")


def registry_down() -> str:
    """Ends the registry that `up` started; its images stay in the cache."""
    own = _own_registry()
    if not own.pid:
        return "none of ours is up"
    own.stop()
    return f"ended; its images are kept in {own.at}"


SERVICES: Mapping[str, Service] = {
    "docker": Service(docker_up, docker_down, docker_find),
    "kubernetes": Service(kubernetes_up, kubernetes_down, kubernetes_find),
    "registry": Service(registry_up, registry_down, registry_find),
}


def main() -> int:
    """Prints a line a service."""
    words = sys.argv[1:]
    verb = words.pop(0) if words and words[0] in ("up", "down", "env") else "up"
    for name in words:
        if name not in SERVICES:
            print(f"services: got '{name}', expected {', '.join(SERVICES)}", file=sys.stderr)
            return 2
    code = 0
    for name in words or SERVICES:
        service = SERVICES[name]
        try:
            if verb == "down":
                print(f"{name}: {service.down()}")
                continue
            up = service.find() if verb == "env" else service.up()
        except (system.Missing, RuntimeError) as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            code = 1
            continue
        if up and verb == "up":
            print(f"{name}: {up.says}")
        for variable, text in (up.env if up else {}).items():
            print(f"export {variable}={quote(text)}")
    return code


if __name__ == "__main__":
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where dockerd is
    sys.exit(main())
