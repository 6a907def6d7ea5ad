"""What a container is made of: the image, pulled where the engine lacks it; with requirements, a layer on top of it.

The layer is built once: by a container whose name, like the layer's tag, is the digest of image and requirements. So two who
need it at once meet at that container's name, whoever finds it ended makes the image of it, and one that is killed on the way
leaves what the next goes on with. Two who find it ended may both make the image: of the same content, the later one has the tag.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unauthorized, Unavailable
from mlctl.runs import Reason

from . import states
from .engine import Engine, Missing, Taken

__all__ = ["LABEL", "REPOSITORY", "ensure"]

log = logging.getLogger(__name__)

REPOSITORY = "mlctl/env"
LABEL = "mlctl.env"
BUILD_SECONDS = 1800

_INSTALL = r"""
PATH=$PATH:/bin:/usr/bin
python=$(command -v python3 || command -v python) || { echo 'error: the image has no Python'; exit 1; }
printf '%s\n' "$@" > /tmp/mlctl-requirements.txt || exit
export PIP_BREAK_SYSTEM_PACKAGES=1
"$python" -m pip install --quiet --disable-pip-version-check --no-input --no-cache-dir -r /tmp/mlctl-requirements.txt
"""


def ensure(engine: Engine, asked: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the image to make the container of, and the user that it names. `asked` is the plan's request.

    Raises InvalidJob where there is no such image, or the requirements can't be met; Unavailable where a registry or an index
    can't be reached; Unauthorized where the registry refuses.
    """
    name = str(asked["image"])
    image = _image(engine, name, str(asked["pull"]))
    user = str(image["Config"].get("User") or "")
    if not asked["requirements"]:
        return name, user
    about = "\n".join(["1", image["Id"], *asked["requirements"]])
    tag = hashlib.sha256(about.encode()).hexdigest()[:32]
    layer, builder = f"{REPOSITORY}:{tag}", f"mlctl-env-{tag}"
    deadline = time.monotonic() + BUILD_SECONDS
    while engine.image(layer) is None:
        try:
            record = engine.inspect(builder)
            _finish(engine, record, tag, user, deadline)
        except Missing:
            log.info("building a layer for %d requirements; kept for the next run", len(asked["requirements"]))
            _begin(engine, asked, name, builder, tag)
        if time.monotonic() > deadline:
            engine.remove(builder, force=True)
            raise Unavailable(f"requirements: not installed within {BUILD_SECONDS} s in {name}")
    return layer, user


def _image(engine: Engine, name: str, pull: str) -> dict[str, Any]:
    found = engine.image(name)
    if pull == "always" or (found is None and pull == "missing"):
        log.info("pulling %s", name)
        if trouble := engine.pull(name):
            raise _unpulled(name, trouble)
        found = engine.image(name)
    if found is None:
        raise InvalidJob(f"image: {name}: the engine has none of that name, and the target doesn't pull (pull: {pull})")
    return found


def _unpulled(name: str, trouble: str) -> MlctlError:
    text = f"image: {name} could not be pulled: {trouble}"
    if re.search(r"(?i)not found|does not exist|manifest unknown|invalid reference", trouble):
        return InvalidJob(text)
    if re.search(r"(?i)unauthorized|denied|authentication required", trouble):
        return Unauthorized(f"{text}; docker login")
    return Unavailable(text)


def _begin(engine: Engine, asked: Mapping[str, Any], image: str, builder: str, tag: str) -> None:
    host = asked["container"]["HostConfig"]
    body = {
        "Image": image,
        "Entrypoint": ["/bin/sh"],
        "Cmd": ["-c", _INSTALL, "mlctl", *asked["requirements"]],
        "User": "0",
        "Labels": {LABEL: tag},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {"NetworkMode": host["NetworkMode"]} if "NetworkMode" in host else {},
    }
    try:
        container = engine.create(body, builder)
    except Taken:  # somebody was faster
        return
    engine.start(container)


def _finish(engine: Engine, record: Mapping[str, Any], tag: str, user: str, deadline: float) -> None:
    """One step on the way of the container that installs."""
    state, builder = record["State"], record["Id"]
    if state["Status"] == "created" and not state.get("Error"):  # its maker is about to, or is gone; twice does no harm
        engine.start(builder)
    elif not states.ended(record):
        engine.until_ended(builder, max(0.1, min(10.0, deadline - time.monotonic())))
    elif state["Status"] == "dead":  # its removal failed half-way, and may be done by now
        engine.remove(builder)
    elif state["ExitCode"] == 0 and not state.get("Error"):
        engine.commit(builder, REPOSITORY, tag, user)
        engine.remove(builder)
    elif state["Status"] == "created":
        engine.remove(builder)
        raise _unstarted(str(state["Error"]))
    else:
        output = b"".join(message.partition(b" ")[2] for _, message in engine.frames(builder, 0)).decode(
            "utf-8", "replace"
        )
        engine.remove(builder)
        raise _failure(output + str(state.get("Error") or ""), int(state["ExitCode"]))


def _unstarted(error: str) -> MlctlError:
    text = f"requirements: their container could not be started: {error}"
    if re.search(r"network \S+ not found", error):
        return InvalidConfig(f"{text}; make it, or change the target's network")
    if states.refusal(error) is Reason.IMAGE:
        return InvalidJob(text)
    return Unavailable(f"{text}; try again")


def _failure(output: str, code: int) -> MlctlError:
    if code > 128:
        return Unavailable(f"requirements: their container was ended from outside, exit code {code}; try again")
    lines = [line.strip() for line in output.splitlines() if line.strip(" ^~")]
    first = next((at for at, line in enumerate(lines) if re.match(r"(?i)error", line)), 0)
    text = f"requirements: {' '.join(lines[first:])[:400] or f'pip ended with {code} and no word'}"
    if re.search(r"(?i)retrying|timed? ?out|connection|temporary failure|name resolution|no space left", output):
        return Unavailable(f"{text}; the package index or the engine's disk failed")
    return InvalidJob(text)
