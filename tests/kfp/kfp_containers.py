"""What kfp.local needs to run a step in a container. A pipeline's own process imports it, so nothing of pytest's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tools/services"))  # base_image, docker_engine, system


def containers(folder: str, shared: list[str], env: Mapping[str, str], **options: Any) -> Any:
    """kfp.local's runner of containers. This machine's own programs, read only, are in an empty image's place; a step
    works in `folder`, and may write there and to what is `shared`."""
    import docker_engine
    from docker.types import Mount
    from kfp import local

    mounts = [*docker_engine.programs(), *(Mount(path, path, "bind") for path in shared)]
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": "/tmp", **env}
    return local.DockerRunner(mounts=mounts, environment=env, working_dir=folder, network_mode="none", **options)


def keep_containers() -> Callable[[], None]:
    """Docker keeps ended containers, until the engine ends. kfp.local lets it remove them, asks for the exit code only
    then, and takes a container that is gone for a success. Returns what undoes it."""
    from docker.models.containers import ContainerCollection

    create = ContainerCollection.create

    def kept(self: Any, *args: Any, **options: Any) -> Any:
        return create(self, *args, **{**options, "auto_remove": False})

    ContainerCollection.create = kept
    return lambda: setattr(ContainerCollection, "create", create)
