"""What `mlctl doctor` finds of an engine, each by a call, and how to mend it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mlctl.backend import Finding, Settings
from mlctl.errors import MlctlError

from .engine import Engine
from .request import PYTHON

__all__ = ["findings"]

_OLDEST = (1, 40)  # Docker 19.03, the first with requests for devices


def findings(engine: Engine, settings: Settings, root: Callable[[], str]) -> Iterator[Finding]:
    """In an order in which each needs those before it; ends where nothing more can be asked."""
    target = settings.target
    try:
        version = engine.version()
    except MlctlError as error:
        mend = f"start it, or set targets.{target}.host or DOCKER_HOST to where one answers; mlctl reads no docker contexts"
        yield Finding("engine", False, str(error), mend)
        return
    where, identity = settings.values.get("host") or os.environ.get("DOCKER_HOST") or "its own socket", engine.identity
    yield Finding("engine", True, f"{identity[1]} on {identity[0]}, at {where}")
    api = str(version.get("ApiVersion", "0"))
    recent = tuple(int(part) for part in api.split(".") if part.isdigit()) >= _OLDEST
    yield Finding("version", recent, f"{version.get('Version')}, API {api}", "take Docker 19.03 or newer")
    info = engine.info()
    place, data = str(info.get("DockerRootDir", "")), Path(str(info.get("DockerRootDir", "")))
    if place and os.access(data, os.R_OK):
        free = shutil.disk_usage(data).free
        yield Finding("disk", free > 1 << 30, f"{free >> 30} GiB free at {place}", "mlctl gc; docker system prune")
    else:
        yield Finding("disk", True, f"{place or 'unknown'}, which can't be seen from here; images {info.get('Images')}")
    try:
        yield Finding("root", True, f"outputs are written below {root()}, of the engine's machine")
    except MlctlError as error:
        yield Finding("root", False, str(error), f"set targets.{target}.root")
    image = str(settings.values.get("image", "python:{python}-slim")).replace("{python}", PYTHON)
    if engine.image(image) is not None:
        yield Finding("image", True, image)
    else:
        pulls = settings.values.get("pull", "missing") != "never"
        mend = f"docker pull {image}, or set targets.{target}.image"
        yield Finding(
            "image", pulls, f"{image} is not here{'; it is pulled when a job asks for it' if pulls else ''}", mend
        )
