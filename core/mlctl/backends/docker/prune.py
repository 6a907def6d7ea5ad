"""What `mlctl gc` removes from an engine: runs whole, what a crash left half made, layers that nothing uses."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from mlctl.errors import MlctlError, Unavailable

from . import environment, request, states
from .engine import Engine, Missing, Refused, Taken

__all__ = ["prune"]

_ERASE_SECONDS = 300.0
_BY_HAND = "remove it by hand, and the containers"
_HALF_REMOVED = ("removing", "dead")  # a list says the one where a look says the other


def prune(engine: Engine, root: str, before: float, dry: bool) -> Iterator[str]:
    """Yields a line for each thing that is over since `before` (seconds since 1970); removes it unless `dry`.

    A run's files go first, so that who is killed on the way leaves a container that the next call finds. Where they can't be
    removed, or the engine can't remove a container, that stays, the others go, and the error is raised at the end.
    """
    trouble: MlctlError | None = None
    stems: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in engine.containers(label=[request.LABEL_STEM]):
        stem, name = line["Labels"][request.LABEL_STEM], line["Names"][0].lstrip("/")
        if "." not in name:
            stems[stem].append(line)
        elif line["Created"] < before and line["State"] in ("created", *_HALF_REMOVED):
            try:
                if not dry:
                    engine.remove(line["Id"])
            except Taken:  # another gc is at it
                continue
            except MlctlError as error:
                trouble = trouble or error
                continue
            yield f"half made: {name}"
    for stem, lines in stems.items():
        try:
            records = [engine.inspect(line["Id"]) for line in lines]
        except Missing:  # another gc's by now
            continue
        if not all(_over(record, before) for record in records):
            continue
        if not dry:
            try:
                if any(states.seconds(record["State"].get("StartedAt", "")) for record in records):
                    _erase(engine, root, stem, records[-1]["Image"])
                for record in records:
                    engine.remove(record["Id"])
            except MlctlError as error:
                trouble = trouble or error
                continue
        yield f"run {stem}, {len(records)} attempts"
    for line in engine.unused_volumes(request.LABEL_STEM):
        if states.seconds(line["CreatedAt"]) < before:
            if not dry:
                engine.remove_volume(line["Name"])
            yield f"left by {line['Labels'][request.LABEL_STEM]}: volume {line['Name'][:12]}"
    yield from _layers(engine, before, dry)
    if trouble:
        raise trouble


def _over(record: dict[str, Any], before: float) -> bool:
    """True for what ended, or was made and never started, before that time."""
    if record["State"]["Status"] in (*states.LIVE, "removing"):
        return False
    at = states.seconds(record["State"].get("FinishedAt", "")) or states.seconds(record["Created"])
    return at < before


def _erase(engine: Engine, root: str, stem: str, image: str) -> None:
    """Removes the folder of a key's attempts, by a container: it may be another machine's, and another user's."""
    body = {
        "Image": image,
        "Entrypoint": ["/bin/sh"],
        "Cmd": ["-c", 'PATH=$PATH:/bin:/usr/bin; rm -rf "/mlctl/erase/$1"', "mlctl", stem],
        "User": "0",
        "WorkingDir": "/",
        "Labels": {environment.LABEL: "erase"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {"Binds": [f"{root}/runs:/mlctl/erase"], "NetworkMode": "none"},
    }
    name, place = f"mlctl-erase-{stem}", f"{root}/runs/{stem}"
    try:
        with contextlib.suppress(Taken):
            engine.start(engine.create(body, name))
        engine.until_ended(name, _ERASE_SECONDS)
        state = engine.inspect(name)["State"]
        if state["Status"] != "exited" or state["ExitCode"]:
            said = state.get("Error") or f"{state['Status']}, exit code {state['ExitCode']}"
            raise Unavailable(f"{place}: a container could not remove it: {said}; {_BY_HAND}")
    except (Missing, Refused) as reason:  # the image is gone
        raise Unavailable(f"{place}: a container could not remove it: {reason}; {_BY_HAND}") from None
    finally:
        engine.remove(name, force=True)


def _layers(engine: Engine, before: float, dry: bool) -> Iterator[str]:
    for line in engine.containers(label=[environment.LABEL]):
        if line["Created"] < before and line["State"] not in states.LIVE:
            if not dry:
                engine.remove(line["Id"])
            yield f"half built: {line['Names'][0].lstrip('/')}"
    used = {line["ImageID"] for line in engine.containers()}
    for line in engine.images(environment.LABEL):
        if line["Created"] < before and line["Id"] not in used:
            with contextlib.suppress(MlctlError):
                if dry or engine.remove_image(line["Id"]):
                    tags = [tag for tag in line.get("RepoTags") or [] if not tag.startswith("<none>")]
                    yield f"layer {next(iter(tags), line['Id'])}"
