"""mlctl's `local` backend by the Python API, defaults throughout: `mlctl.run` is this `submit` and `wait`."""

from __future__ import annotations

from common import drive

import mlctl


def submit(command: list[str]) -> object:
    return mlctl.submit({"kind": "process", "name": "bench", "command": command}, target="local")


drive(submit, lambda run: run.wait())  # raises RunFailed
