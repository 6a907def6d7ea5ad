"""One platform, as the rest of mlctl sees it, and the door through which every platform comes.

A platform is a class with the methods of `Backend`; plugins.py finds it, a stranger's by an entry point in the group
`mlctl.backends`. Every method is one bounded step: none loops, waits for the job, or remembers.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import plugins
from .errors import InvalidConfig, MlctlError, Unsupported, did_you_mean, one_line
from .job import Job
from .runs import Found, Key, Logs, Loss, Plan, Result, Run, Stamp, Status, Upload
from .values import Allowed

if TYPE_CHECKING:
    from .policy import Admitted

__all__ = ["FIELDS", "Backend", "Base", "Facts", "Features", "Finding", "Settings", "load", "names"]

Facts = Mapping[str, Any]
"""What `resolve` read, frozen, JSON: all that `plan` may know besides the job and the settings."""


@dataclass(frozen=True)
class Settings:
    """A target: its name, what its configuration says, and where mlctl keeps what it keeps on this machine."""

    target: str
    values: Mapping[str, Any]
    home: Path

    def fail(self, name: str, text: str) -> InvalidConfig:
        """The error to raise about one setting of this target."""
        return InvalidConfig(f"targets.{self.target}.{name}: {text}")

    def check(self, allowed: Allowed) -> None:
        """Raises InvalidConfig that names the first setting that is wrong, and what it takes; settings it doesn't name pass."""
        for name, (right, expected) in allowed.items():
            if name in self.values and not right(value := self.values[name]):
                raise self.fail(name, f"got {one_line(value)}, expected {expected}")

    def reference(self, name: str, pattern: str, expected: str, at: str = "secrets") -> re.Match[str]:
        """The parts of where a secret comes from that the platform itself reads; `at` is the setting that has secrets.

        Raises InvalidConfig for one that isn't there, or is of another sort than `pattern`; `expected` says which that is.
        """
        known: Mapping[str, Any] = self.values
        for part in at.split("."):
            known = known.get(part, {})
        source = str(known.get(name, ""))
        match = re.fullmatch(pattern, source)
        if not match:
            got = f"got a source of another sort ({source.partition(':')[0]}:)" if source else "it is not set"
            raise self.fail(f"{at}.{name}", f"{got}, expected {expected}")
        return match

    def secret_source(self, name: str) -> str:
        """Where a secret of this machine comes from: env:NAME or file:PATH; the variable of its name unless said."""
        source = str(self.values.get("secrets", {}).get(name, f"env:{name}"))
        if not source.startswith(("env:", "file:")):
            raise self.fail(f"secrets.{name}", "got a source of another sort, expected env:NAME or file:PATH")
        return source

    def secret(self, name: str, source: str, at: str = "secrets.") -> str:
        """What is there. Raises InvalidConfig where it isn't, which names the setting: `at` and the name."""
        kind, _, where = source.partition(":")
        if kind == "env":
            if where not in os.environ:
                raise self.fail(f"{at}{name}", f"comes from the environment variable {where}, which isn't set")
            return os.environ[where]
        try:
            text = Path(where).expanduser().read_text(encoding="utf-8").rstrip("\n")
            if "\0" in text:
                raise ValueError("holds a null byte")
            return text
        except (OSError, ValueError, RuntimeError) as reason:
            text = f"comes from {where}: {getattr(reason, 'strerror', reason)}"
            raise self.fail(f"{at}{name}", text) from None


FIELDS: Mapping[str, Callable[[Job], bool]] = {
    "code": lambda job: job.code is not None,
    "image": lambda job: bool(job.image),
    "python": lambda job: bool(job.python),
    "requirements": lambda job: bool(job.requirements),
    "command.shell": lambda job: bool(job.command.script),
    "params": lambda job: bool(job.params),
    "inputs": lambda job: bool(job.inputs),
    "inputs.mode.download": lambda job: any(one.mode == "download" for one in job.inputs.values()),
    "inputs.mode.mount": lambda job: any(one.mode == "mount" for one in job.inputs.values()),
    "outputs": lambda job: bool(job.outputs),
    "outputs.uri": lambda job: any(one.uri for one in job.outputs.values()),
    "outputs.mode.upload": lambda job: any(one.mode == "upload" for one in job.outputs.values()),
    "outputs.mode.mount": lambda job: any(one.mode == "mount" for one in job.outputs.values()),
    "env": lambda job: bool(job.env),
    "secrets": lambda job: bool(job.secrets),
    "resources.cpu": lambda job: job.resources.cpu is not None,
    "resources.memory": lambda job: job.resources.memory is not None,
    "resources.accelerators": lambda job: job.resources.accelerators is not None,
    "resources.disk": lambda job: job.resources.disk is not None,
    "resources.shm": lambda job: job.resources.shm is not None,
    "resources.spot": lambda job: job.resources.spot,
    "resources.nodes": lambda job: job.resources.nodes > 1,
    "distribution": lambda job: job.distribution is not None,
    "timeout": lambda job: job.timeout is not None,
    "queue_timeout": lambda job: job.queue_timeout is not None,
    "labels": lambda job: bool(job.labels),
    "tags": lambda job: bool(job.tags),
}
"""Every field that a platform may honour, lose or refuse, and whether a job asks for it."""


@dataclass(frozen=True)
class Features:
    """What a platform does with each kind and field. A field that is in neither set is refused."""

    kinds: frozenset[str]
    honours: frozenset[str]
    loses: Mapping[str, str]
    """Field -> why it is not honoured, and that the result is the same."""
    proven: str = "never run"
    """What the tests of this platform ran against: real, emulator, stand-in."""
    unproven: frozenset[str] = frozenset()
    """The kinds and fields, of those honoured, that no test ran there."""

    def losses(self, backend: str, job: Job) -> tuple[Loss, ...]:
        """What `job` asks for and won't get. Raises Unsupported where its result would change."""
        if job.kind.name not in self.kinds:
            raise _unsupported(
                job.fail(("kind",), f"{job.kind.name} does not run on {backend}, which has {', '.join(self.kinds)}")
            )
        asked = [name for name, asks in FIELDS.items() if asks(job)]
        for name in asked:
            if name not in self.honours and name not in self.loses:
                keys = tuple(name.split("."))
                raise _unsupported(job.fail(keys, f"{backend} cannot honour it; remove it, or choose another target"))
        return tuple(Loss(name, self.loses[name]) for name in asked if name in self.loses)


def _unsupported(error: MlctlError) -> Unsupported:
    return Unsupported(str(error))


@dataclass(frozen=True)
class Finding:
    """One line of `mlctl doctor`: what was tried, whether it went well, and how to mend it."""

    what: str
    ok: bool
    text: str = ""
    mend: str = ""

    @classmethod
    def of(cls, what: str, ask: Callable[[], str], mend: str) -> Finding:
        """What comes of asking: what `ask` says; or its error, and how to mend that."""
        try:
            return cls(what, True, ask())
        except MlctlError as error:
            return cls(what, False, str(error), mend)


class Backend(Protocol):
    """One platform. Construct it with its target's `Settings`; that makes no I/O.

    Each method raises Unavailable (throttled, 5xx, network, full disk), Unauthorized (credentials, permission), or what
    it says.
    """

    name: str
    features: Features
    remembers: timedelta | None
    """How long the platform keeps a finished run and its name; None: until somebody removes it."""
    name_limit: int
    """The longest name of a run, in characters."""
    interval: float
    """Seconds between two polls of a run that has been going on for a while."""

    def resolve(self, job: Job) -> Facts:
        """Reads what planning needs (account, bucket, image, interpreter): the only reader before submit."""
        ...

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The exact native request. Pure: no I/O, clock or randomness. Raises InvalidJob, Unsupported."""
        ...

    def find(self, key: Key) -> Sequence[Found]:
        """The attempts of one key that the platform remembers, by number. Reads only."""
        ...

    def put(self, upload: Upload) -> None:
        """Puts one of a plan's uploads at its address, unless it is there: whole, or not at all."""
        ...

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Starts the plan. A return guarantees that the platform has the run under its name, with its stamp.

        Raises RunExists where the name is taken; then nothing was started.
        """
        ...

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """What is known of many runs, in few calls. One bad run spoils no other: its value is the error."""
        ...

    def logs(self, run: Run, since: str = "") -> Logs:
        """Lines after the cursor `since`, in order; at most about a megabyte. Raises RunNotFound."""
        ...

    def result(self, run: Run) -> Result:
        """What the run left so far. Raises RunNotFound."""
        ...

    def cancel(self, run: Run) -> None:
        """Asks the platform to end the run, with a grace. Idempotent; a no-op when done; never removes the record."""
        ...

    def reaches(self, run: Run) -> bool:
        """Whether the run is where this target is: in its account, its cluster, its engine. Says nothing of whether it is there."""
        ...

    def check(self) -> Iterator[Finding]:
        """What `mlctl doctor` shows; each by a real call."""
        ...

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """Returns after `seconds`, or sooner where a run may have changed."""
        ...

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Removes what mlctl left on the platform before `before` (seconds since 1970) and nothing uses; says what."""
        ...


class Base:
    """What most platforms share."""

    name: str
    remembers: timedelta | None = None
    name_limit: int = 63
    interval: float = 10.0
    as_root: bool = False
    """Whether a container has to be root there, because what the platform mounts is root's: for images built for it."""
    takes: frozenset[str] = frozenset({"secrets"})
    """The settings that a target of this platform may have."""

    def __init__(self, settings: Settings) -> None:
        for name in settings.values:
            if name not in self.takes:
                near = did_you_mean(name, self.takes) or f"; {self.name} takes {', '.join(sorted(self.takes))}"
                raise settings.fail(name, f"unknown setting{near}")
        secrets = settings.values.get("secrets", {})
        if not isinstance(secrets, Mapping) or not all(isinstance(source, str) for source in secrets.values()):
            raise settings.fail("secrets", "expected a mapping of names to where they come from, such as env:HF_TOKEN")
        self.settings = settings

    def put(self, upload: Upload) -> None:
        """Writes to `file:` and to what fsspec knows. A platform with a store of its own has its own way."""
        from . import data

        data.put(upload)

    def reaches(self, run: Run) -> bool:
        """Any run: where all targets of a platform are one place."""
        return True

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """Sleeps: most platforms have no way to tell that a run changed."""
        time.sleep(seconds)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Nothing to remove."""
        return iter(())


def names() -> list[str]:
    """The platforms installed here."""
    return plugins.names(plugins.BACKENDS)


def wants_root(name: str) -> bool:
    """Whether an image that is built for the platform called `name` has to run as root; no for an unknown one."""
    try:
        return plugins.known(plugins.BACKENDS, name) and getattr(plugins.load(plugins.BACKENDS, name), "as_root", False)
    except ImportError:  # said where the platform is used
        return False


def load(name: str, settings: Settings) -> Backend:
    """The platform called `name` for one target. Its module, and its SDK, are imported here and not before.

    Raises InvalidConfig for an unknown name, and for one whose libraries are not installed.
    """
    if not plugins.known(plugins.BACKENDS, name):
        near = did_you_mean(name, names()) or f"; installed here: {', '.join(names())}"
        raise settings.fail("backend", f"got '{name}', which is no platform known here{near}")
    try:
        made: Backend = plugins.load(plugins.BACKENDS, name)(settings)
    except ImportError as reason:
        raise settings.fail(
            "backend", f"'{name}' needs {reason.name or reason}; install mlctl with the extra [{name}]"
        ) from None
    return made
