"""What happens to a job on a platform: the plan, the run it becomes, and what is known of it.

All of it is plain, frozen data. A run's whole state is one URL, enough to reach it from anywhere:
`local://laptop/home/me/.local/share/mlctl/churn-train-k3v9x2m4p7q1w8za-0`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote

from .errors import InvalidConfig, one_line

__all__ = [
    "Found",
    "Key",
    "Logs",
    "Loss",
    "Metric",
    "Plan",
    "Reason",
    "Result",
    "Run",
    "Stamp",
    "State",
    "Status",
    "Upload",
]


class State(str, Enum):
    """Where a run is in its life. The set is closed: a platform's unknown state is an error, never a guess."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True where nothing more will happen."""
        return self in _TERMINAL


_TERMINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Reason(str, Enum):
    """Why a run ended badly."""

    ERROR = "error"
    """The job's own doing: it ended with an exit code other than 0."""
    OOM = "oom"
    PREEMPTED = "preempted"
    NO_CAPACITY = "no_capacity"
    QUOTA = "quota"
    IMAGE = "image"
    """What the job runs in could not be had: a container image, a Python environment."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INFRA = "infra"
    """The platform's fault: a lost node, a killed supervisor, an internal error."""
    ABANDONED = "abandoned"
    """Nothing ran: its submitter died between taking the name and starting the job."""

    @property
    def retryable(self) -> bool:
        """True where the same job may well succeed at another try."""
        return self in (Reason.PREEMPTED, Reason.NO_CAPACITY, Reason.INFRA, Reason.ABANDONED)


@dataclass(frozen=True)
class Key:
    """Who asks for what: the same `text` for the same `job` is the same run, whoever asks. Names are derived from both."""

    text: str
    job: str

    @property
    def hash(self) -> str:
        """sha256 of the job's name and the text, in hex; stamped whole into the platform's record."""
        return hashlib.sha256(f"{self.job}\0{self.text}".encode("utf-8", "surrogatepass")).hexdigest()

    def stem(self, limit: int = 63) -> str:
        """The job's name, cut so that an attempt's whole name fits `limit`, and 16 base32 characters (80 bits) of the
        hash."""
        tail = base64.b32encode(bytes.fromhex(self.hash)[:10]).decode().lower()
        return f"{self.job[: limit - len(tail) - 5].rstrip('-')}-{tail}"

    def name(self, attempt: int, limit: int = 63) -> str:
        """The name of attempt number `attempt`, which counts from 0."""
        return f"{self.stem(limit)}-{attempt}"

    def attempt(self, name: str, limit: int = 63) -> int | None:
        """The attempt that is called so; None for the name of another key's, or of a stranger."""
        match = re.fullmatch(rf"{re.escape(self.stem(limit))}-(\d+)", name)
        return int(match[1]) if match else None


@dataclass(frozen=True)
class Run:
    """A submitted plan. `str(run)` is its URL: backend://account/scope/name."""

    backend: str
    account: str
    scope: str
    name: str

    def __str__(self) -> str:
        account, name = (quote(part, safe="", errors="surrogateescape") for part in (self.account, self.name))
        return f"{self.backend}://{account}/{quote(self.scope, errors='surrogateescape')}/{name}"

    @classmethod
    def parse(cls, url: str) -> Run:
        """The run that `url` names. Raises InvalidConfig for what is no run's URL."""
        match = re.fullmatch(r"([a-z][a-z0-9-]*)://([^/?#]*)/([^?#]*)/([^/?#]+)", url)
        if not match:
            raise InvalidConfig(f"got {one_line(url)}, expected a run's URL such as local://host/path/to/home/name-0")
        return cls(match[1], *(unquote(part, errors="surrogateescape") for part in match.groups()[1:]))

    @property
    def attempt(self) -> int:
        """The attempt's number, the last part of the name."""
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True)
class Upload:
    """A file to be at `address` before submit; content-addressed, so that what is there is never written again."""

    source: str
    sha256: str
    address: str


@dataclass(frozen=True)
class Loss:
    """A field that the platform won't honour, and that doesn't change the job's result."""

    field: str
    why: str


@dataclass(frozen=True)
class Plan:
    """Job x Target x name: what would be sent, exactly. Made without I/O, clock or randomness; JSON throughout."""

    name: str
    backend: str
    target: str
    request: Mapping[str, Any]
    uploads: tuple[Upload, ...] = ()
    losses: tuple[Loss, ...] = ()
    estimate: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As `mlctl plan --json` prints it."""
        return {
            "name": self.name,
            "backend": self.backend,
            "target": self.target,
            "request": self.request,
            "uploads": [vars(upload) for upload in self.uploads],
            "losses": [vars(loss) for loss in self.losses],
            "estimate": self.estimate,
        }

    def _repr_html_(self) -> str:
        from . import notebook

        rows = {"target": f"{self.target} ({self.backend})"}
        rows |= {f"upload {upload.sha256[:12]}": upload.address for upload in self.uploads}
        rows |= {f"not honoured: {loss.field}": loss.why for loss in self.losses}
        request = json.dumps(self.request, indent=2, ensure_ascii=False)
        return notebook.table(f"plan {self.name}", rows) + notebook.folded("request", request)


@dataclass(frozen=True)
class Stamp:
    """What the platform's own record says of a run, so that nobody needs to remember anything."""

    key: str
    """The key's full hash: two keys whose names collide are told apart by it."""
    digest: str
    """The job's digest; compared when a run is adopted."""
    parts: str = ""
    """A short digest of each field, `params=1f3a9c code=...`, to say what differs."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What a caller keeps with the run; a value holds at most 256 characters."""
    nonce: str = ""
    """Told by the submitter to itself: whether this call made the run, or found it."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def of_json(cls, text: str) -> Stamp:
        """Raises ValueError for what `to_json` did not write."""
        data = json.loads(text)
        if not isinstance(data, dict) or not {"key", "digest"} <= data.keys():
            raise ValueError(f"{one_line(text)} is no stamp of mlctl's")
        return cls(data["key"], data["digest"], data.get("parts", ""), data.get("values", {}), data.get("nonce", ""))

    def differs(self, other: Stamp) -> list[str]:
        """The fields whose short digests differ."""
        mine, theirs = (dict(part.partition("=")[::2] for part in stamp.parts.split()) for stamp in (self, other))
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


@dataclass(frozen=True)
class Status:
    """What a platform says of a run now. Cheap: what a finished run left is in its `Result`."""

    state: State
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    started: datetime | None = None
    finished: datetime | None = None
    link: str = ""
    """The platform's own page of the run."""

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it; times in ISO 8601."""
        return {
            "state": self.state.value,
            "reason": self.reason.value if self.reason else None,
            "message": self.message,
            "exit_code": self.exit_code,
            "started": self.started.isoformat() if self.started else None,
            "finished": self.finished.isoformat() if self.finished else None,
            "link": self.link,
        }


@dataclass(frozen=True)
class Found:
    """One attempt of a key, as the platform has it."""

    run: Run
    number: int
    stamp: Stamp
    status: Status


@dataclass(frozen=True)
class Logs:
    """Lines, and the cursor to go on from. No lines: nothing new."""

    lines: tuple[str, ...]
    cursor: str


@dataclass(frozen=True)
class Metric:
    """One point of a metric; `time` in seconds since 1970, `step` as the job counts."""

    name: str
    value: float
    step: int | None = None
    time: float | None = None


@dataclass(frozen=True)
class Result:
    """What a run left: the address of each output, and every point of its metrics in the order they were written."""

    outputs: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Metric, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return {point.name: point.value for point in self.points}
