"""A build from its place in the queue to its end, within a bound."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator, Mapping

import click

from mlctl import units
from mlctl.errors import InvalidConfig, RunNotFound, Unavailable

from .controller import Controller, path_of

__all__ = ["follow"]

CODES = {"SUCCESS": 0, "UNSTABLE": 3, "ABORTED": 130}
_PAUSES = (0.1, 5.0)  # seconds, from and to
_FORGOTTEN = 10.0  # seconds that a build may take to appear once its queue item is gone


def follow(controller: Controller, name: str, params: Mapping[str, str], timeout: str, quiet: bool) -> int:
    """Starts a build and waits for its end; its exit code. Raises Unavailable after `timeout`: the build goes on."""
    try:
        deadline = time.monotonic() + units.seconds(timeout)
    except ValueError as reason:
        raise InvalidConfig(f"--timeout: {reason}") from None
    queued = controller.trigger(name, params)
    click.echo(f"{name}: {controller.url}/{queued}", err=True)
    build = _started(controller, name, queued, deadline)
    if build is None:
        click.echo(f"mlctl: {name}: cancelled in the queue", err=True)
        return CODES["ABORTED"]
    click.echo(f"{name}: {controller.url}/{build}/", err=True)
    result = _ended(controller, build, deadline, quiet)
    click.echo(f"{name}: {result}: {controller.url}/{build}/", err=True)
    return CODES.get(result, 1)


def _rounds(deadline: float, what: str) -> Iterator[None]:
    """Again and again, slower, until the deadline. Raises Unavailable after it."""
    pause = _PAUSES[0]
    while True:
        yield
        if (left := deadline - time.monotonic()) <= 0:
            raise Unavailable(f"{what}: not over in time; it goes on")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _PAUSES[1])


def _started(controller: Controller, name: str, queued: str, deadline: float) -> str | None:
    """The build's path; None where somebody cancelled the queue item."""
    for _ in _rounds(deadline, f"{controller.url}/{queued}"):
        try:
            item = controller.json(queued)
        except RunNotFound:  # forgotten, five minutes after it left the queue, or by a restart
            return _found(controller, name, queued, deadline)
        except Unavailable as error:
            click.echo(f"mlctl: {error}; trying again", err=True)
            continue
        if item.get("cancelled"):
            return None
        if executable := item.get("executable"):
            return f"{path_of(name)}/{executable['number']}"
    return None


def _found(controller: Controller, name: str, queued: str, deadline: float) -> str:
    until = min(deadline, time.monotonic() + _FORGOTTEN)
    pause = _PAUSES[0]
    while True:
        last = time.monotonic() >= until  # before the look: while this machine stands still, the build may come
        try:
            if build := controller.build_of(name, queued):
                return build
        except Unavailable as error:
            if last:
                raise
            click.echo(f"mlctl: {error}; trying again", err=True)
        if last:
            raise RunNotFound(f"{name}: {queued} left the queue, and no build came of it; was it removed?")
        time.sleep(pause)


def _ended(controller: Controller, build: str, deadline: float, quiet: bool) -> str:
    at, decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")
    for _ in _rounds(deadline, f"{controller.url}/{build}/"):
        try:
            state = controller.json(build, "building,result")
            if not quiet:
                lines, at = controller.log(build, at)
                sys.stdout.write(decoder.decode(lines))
                sys.stdout.flush()
            if state.get("result") and not state.get("building"):
                return str(state["result"])
        except Unavailable as error:
            click.echo(f"mlctl: {error}; trying again", err=True)
    return ""
