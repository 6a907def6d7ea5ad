"""Clusters that are made to be thrown away, by `kind`: one that a user works with already, else one of ours, named `mlctl`.

A kubeconfig's current context may be production, and the tests make namespaces, break what runs and fill disks. So only a
context that kind named (`kind-NAME`), with a server on this machine, is taken; any other has to be named, by
MLCTL_TEST_KUBECONFIG. What is taken is copied, so that a `kubectl config use-context` in the midst of a test changes nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from typing import Any
from urllib.parse import urlsplit

import yaml

__all__ = ["NAME", "answers", "create", "current", "delete", "own", "server", "stranger"]

NAME = "mlctl"
"""The cluster that `create` makes."""

_HERE = ("127.0.0.1", "localhost", "::1")
_START = 600  # seconds for an image to be pulled, and a node to be ready


def current(folder: Path) -> Path | None:
    """A kubeconfig, below `folder`, of the current context alone, where that is one of kind's and answers; else None."""
    found = _context()
    if not found or not _throwaway(found) or not answers(found["clusters"][0]["cluster"]["server"]):
        return None
    return _kept(folder, yaml.safe_dump(found))


def stranger() -> str:
    """The name of the current context where that is none of kind's, so that it is left alone; "" where there is none."""
    found = _context()
    return "" if not found or _throwaway(found) else str(found["current-context"])


def own(folder: Path) -> Path | None:
    """The kubeconfig of our own cluster, where there is one; None where there is none, or no `kind`."""
    if not shutil.which("kind") or NAME not in _run("get", "clusters").split():
        return None
    return _kept(folder, _run("get", "kubeconfig", "--name", NAME))


def create(folder: Path) -> Path:
    """The same, made where it isn't there yet. Raises RuntimeError where kind can't."""
    if not (found := own(folder)):
        folder.mkdir(
            parents=True, exist_ok=True
        )  # its own file: the user's kubeconfig, and its context, stay as they are
        _run("create", "cluster", "--name", NAME, "--kubeconfig", str(_place(folder)), "--wait", "180s")
        found = own(folder)
    if not found:
        raise RuntimeError(f"kind made the cluster {NAME}, and does not list it; see: kind get clusters")
    return found


def delete(folder: Path) -> bool:
    """Removes our own cluster; False where there is none."""
    if not own(folder):
        return False
    _run("delete", "cluster", "--name", NAME, "--kubeconfig", str(_place(folder)))
    _place(folder).unlink(missing_ok=True)
    return True


def answers(server: str) -> bool:
    """Whether anything answers there, be it to say no: a cluster that was stopped leaves its context."""
    trusting = create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, CERT_NONE
    try:
        with urllib.request.urlopen(f"{server}/version", timeout=5, context=trusting):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def server(kubeconfig: str) -> str:
    """The address of the first cluster that the text of a kubeconfig has. Raises ValueError."""
    try:
        return str(yaml.safe_load(kubeconfig)["clusters"][0]["cluster"]["server"])
    except (yaml.YAMLError, LookupError, TypeError) as reason:
        raise ValueError(f"no kubeconfig: {reason}") from None


def _run(*words: str) -> str:
    try:
        done = subprocess.run(["kind", *words], capture_output=True, text=True, timeout=_START, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"kind {' '.join(words)}: took more than {_START} s") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-500:])
        raise RuntimeError(f"kind {' '.join(words)}: {said or f'ended with {done.returncode}'}")
    return done.stdout


def _context() -> dict[str, Any] | None:
    """The current context of KUBECONFIG, else of ~/.kube/config, and what it names: a kubeconfig of its own. None without."""
    named = [Path(each) for each in os.environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    whole: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
    for path in named or [Path.home() / ".kube/config"]:
        try:
            config = yaml.safe_load(path.read_text()) or {}
            whole.setdefault("current-context", config.get("current-context") or None)
            for kind in ("clusters", "users", "contexts"):
                whole[kind] += config.get(kind) or []
        except (
            OSError,
            ValueError,
            AttributeError,
            TypeError,
            yaml.YAMLError,
        ):  # kubectl will say what is wrong with it
            continue
    try:
        name = whole["current-context"]
        context = _named(whole["contexts"], name)
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [_named(whole["clusters"], context["context"]["cluster"])],
            "users": [_named(whole["users"], context["context"]["user"])],
            "contexts": [context],
            "current-context": name,
        }
    except (LookupError, TypeError, StopIteration):
        return None


def _named(things: list[Any], name: str) -> Any:
    return next(each for each in things if each["name"] == name)


def _throwaway(config: dict[str, Any]) -> bool:
    server = str(config["clusters"][0].get("cluster", {}).get("server", ""))
    return str(config["current-context"]).startswith("kind-") and urlsplit(server).hostname in _HERE


def _place(folder: Path) -> Path:
    return folder / "kind.kubeconfig"


def _kept(folder: Path, text: str) -> Path:
    """Writes it, whole or not at all, for its owner's eyes."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".kind.kubeconfig.{os.getpid()}"
    draft.touch(0o600)
    draft.write_text(text)
    return draft.rename(_place(folder))
