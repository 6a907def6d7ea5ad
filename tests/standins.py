"""The platforms' stand-ins, each in a process of its own: for a test whose environment lacks what they stand on.

    with standins.running("sagemaker", folder) as standin:
        standin.env        # what its user's environment has: the address, credentials that are nobody's
        standin.target     # what an mlctl.yaml says of it

A platform joins by tests/platforms/NAME/NAME_served.py, whose `served(folder)` is a context manager of the two.

python standins.py MODULE FOLDER     # serves; says both in a line of JSON; ends when its stdin does
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlctl import backend

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".envs/platforms/bin/python"
MANAGED = tuple(name for name in ("sagemaker", "databricks", "azureml") if name in backend.names())
"""The managed platforms that this mlctl has."""

CONTAINERS = tuple(name for name in ("docker", "kubernetes") if name in backend.names())
"""Those that are no stand-ins: a real engine and a real cluster."""

GIVES = "MLCTL_TEST_PLATFORMS"
"""Name -> its Standin's fields, in JSON; read once, before a test's home is cleared of such variables."""

_START, _END = 300, 60  # seconds; an image may have to be made first


@dataclass(frozen=True)
class Standin:
    """How a platform is reached: variables of the environment, and a target of mlctl.yaml."""

    env: Mapping[str, str]
    target: Mapping[str, Any]


GIVEN = {name: Standin(**each) for name, each in json.loads(os.environ.get(GIVES, "{}")).items()}
"""Platforms that whoever started this process has up for it, in the variable GIVES."""


@contextlib.contextmanager
def running(name: str, folder: Path, how: str = "served") -> Iterator[Standin]:
    """The platform's stand-in, until the context ends; `folder` is its to make, and keeps its log. Of GIVEN, what is up. `how` is
    another file's end, NAME_HOW.py, which serves it otherwise."""
    if how == "served" and (given := GIVEN.get(name)):
        yield given
        return
    subprocess.run([ROOT / "tools/env.sh", "platforms"], check=True, stdout=subprocess.DEVNULL)
    folder.mkdir(parents=True)
    env = {each: value for each, value in os.environ.items() if not each.startswith(("MLCTL_", "PYTHON"))}
    log = folder / "standin.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [PYTHON, __file__, module(name, how), folder / "data"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stream, start_new_session=True,
        )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            said = process.stdout.readline() if selector.select(_START) else b""
        assert said, f"{name}'s stand-in did not start:\n{log.read_text()[-2000:]}"
        yield Standin(**json.loads(said))
    finally:
        process.stdin.close()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            process.stdout.close()


def module(name: str, how: str = "served") -> Path:
    """The file by which a platform joins."""
    return ROOT / "tests/platforms" / name / f"{name}_{how}.py"


def name_accounts(file: Path, platforms: Mapping[str, Standin]) -> None:
    """Puts into an mlctl.yaml what its targets and profiles of these names are: what a user of the examples does by hand."""
    whole = yaml.safe_load(file.read_text())
    whole["targets"] |= {name: dict(standin.target) for name, standin in platforms.items()}
    whole["profiles"] |= {name: [{"target": name}] for name in platforms}
    file.write_text(yaml.safe_dump(whole))


def main(file: Path, folder: Path) -> None:
    places = (file.parent, file.parents[1], ROOT / "tools/services")  # what each has of its own, and what they share
    sys.path[:0] = map(str, places)
    folder.mkdir(parents=True)
    with importlib.import_module(file.stem).served(folder) as (env, target):
        print(json.dumps({"env": env, "target": target}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
