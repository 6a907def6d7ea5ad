"""Runs in the containers beside the job's, of the target's stage image: fetches what the job reads, and saves what it left.

    python3 -c TEXT fetch|save ROOT PLAN        PLAN: JSON, {"fetch": [[address, path], ...], "save": [[address, path], ...]}

Stands alone: its text is in the Job. Needs Python 3.8 and fsspec, with what that needs for the addresses. The job's shell holds
a pipe open for as long as its container lives, so that an end by a kill is seen, too; a job that ended has its exit code noted.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

LACKING = "mlctl: the stage image lacks a package"
UNREADABLE = "mlctl: an input is not there, or not for this one to read"
UNFETCHED = "mlctl: an input could not be fetched"
UNSAVED = "mlctl: an output could not be saved"

LOG = Path("/dev/termination-log")


class Failed(Exception):
    """Its words are the pod's."""


def store(address: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it."""
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(address)
    except ImportError as reason:
        raise Failed(f"{LACKING}: {address}: {reason}") from None
    return files, path.rstrip("/")


def below(path: str, name: str) -> str:
    """A name relative to a folder. A name that would lead out of it is refused."""
    relative = name[len(path) :].lstrip("/")
    if ".." in relative.split("/"):
        raise Failed(f"{UNREADABLE}: {name}: its name leads elsewhere")
    return relative


def fetch(address: str, target: str) -> None:
    """An object to a file; a folder of them to a folder."""
    try:
        files, path = store(address)
        if files.isfile(path):
            found, targets = [path], [Path(target)]
        else:
            found = [name for name in files.find(path) if not name.endswith("/")]
            targets = [Path(target, below(path, name)) for name in found]
        if not found:
            raise FileNotFoundError("there is nothing")
        for each in targets:
            each.parent.mkdir(parents=True, exist_ok=True)
        files.get(found, list(map(str, targets)))
    except Failed:
        raise
    except (FileNotFoundError, PermissionError) as reason:
        raise Failed(f"{UNREADABLE}: {address}: {reason}") from None
    except Exception as reason:  # each store has errors of its own
        raise Failed(f"{UNFETCHED}: {address}: {type(reason).__name__}: {reason}") from None


def save(address: str, source: str) -> None:
    """A folder, with all that is in it."""
    try:
        files, path = store(address)
        found = [str(Path(at, name)) for at, _, names in os.walk(source) for name in names]
        if found:
            files.put(found, [f"{path}/{Path(each).relative_to(source).as_posix()}" for each in found])
    except Exception as reason:
        raise Failed(f"{UNSAVED}: {address}: {type(reason).__name__}: {reason}") from None


def ended(root: Path) -> str:
    """The job's exit code as its shell noted it, once its container has ended; empty where that was killed."""
    while not (root / "started").exists():
        time.sleep(0.1)
    pipe = os.open(root / "alive", os.O_RDONLY | os.O_NONBLOCK)
    waits = select.poll()
    waits.register(pipe, select.POLLIN)
    while True:
        try:
            if not os.read(pipe, 1):  # nobody holds its other end any more
                break
        except BlockingIOError:
            waits.poll(1000)
    try:
        return (root / "ended").read_text()
    except FileNotFoundError:
        return ""


def work(what: str, root: Path, plan: dict[str, list[list[str]]]) -> int:
    """The exit code."""
    if what == "fetch":
        os.umask(0)  # the job may be another user
        for address, _ in plan["save"]:
            store(address)  # a package that isn't there is told before the job runs
        for address, target in plan["fetch"]:
            fetch(address, target)
        os.mkfifo(root / "alive")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # process 1 hears no signal that it doesn't ask for
    code = ended(root)
    if code == "0":
        for address, source in plan["save"]:
            save(address, source)
    return 0 if code else 1


def main() -> int:
    """Says why it failed as a pod does."""
    try:
        return work(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
    except Failed as reason:
        text = " ".join(str(reason).split())[:1000]
        sys.stderr.write(f"{text}\n")
        LOG.write_text(text)
        return 1


if __name__ == "__main__":
    sys.exit(main())
