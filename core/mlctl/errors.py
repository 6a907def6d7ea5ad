"""Every error mlctl raises on purpose, in one tree.

    MlctlError
    ├─ InvalidJob            the job file, or what was given with it                         exit 2
    │  └─ Unsupported        this platform has no such kind or feature                       exit 2
    ├─ InvalidConfig         mlctl.yaml, a layer of it, or what was asked of it              exit 2
    ├─ Denied                a rule of the organisation forbids it                           exit 77
    ├─ Unauthorized          unknown credentials, or a right that lacks: a file's, too       exit 77
    ├─ Unavailable           throttled, 5xx, network, full disk; worth another try           exit 75
    ├─ RunExists             the name is taken: somebody submitted this attempt before       exit 70
    ├─ RunNotFound           the platform knows no such run                                  exit 70
    ├─ Interrupted           the caller was told to stop, and there is nothing to end        exit 130
    └─ RunFailed             the job itself ended badly: see `status.reason`                 exit 1, 75, 124, 130

Exit codes 70, 75 and 77 are those of sysexits.h (EX_SOFTWARE, EX_TEMPFAIL, EX_NOPERM); 124 is timeout(1)'s; 130 a
shell's for SIGINT. A message is one line: what, where, what it got, what is allowed, what next.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .runs import Run, Status

__all__ = [
    "Denied",
    "Interrupted",
    "InvalidConfig",
    "InvalidJob",
    "MlctlError",
    "RunExists",
    "RunFailed",
    "RunNotFound",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "did_you_mean",
    "kind_of",
    "one_line",
    "refused",
]


# Control characters, other line ends, and what stands for bytes that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class MlctlError(Exception):
    """The root. `exit_code` is what the command line ends with. The message is one line, whatever it quotes."""

    exit_code: ClassVar[int] = 70

    def __init__(self, text: str = "") -> None:
        super().__init__(_UNPRINTABLE.sub(lambda match: repr(match.group())[1:-1], text))


class InvalidJob(MlctlError):
    """The job, or a parameter or input given with it, is wrong. Never worth a retry as it stands."""

    exit_code = 2


class Unsupported(InvalidJob):
    """The job is right, and this platform cannot honour it without changing its result."""


class InvalidConfig(MlctlError):
    """The configuration, or what was asked of it, is wrong. Never worth a retry as it stands."""

    exit_code = 2


class Denied(MlctlError):
    """A rule forbids it; the message names the rule and who set it."""

    exit_code = 77


class Unauthorized(MlctlError):
    """The platform refused the credentials or the permission, or this machine to read or write a file."""

    exit_code = 77


class Unavailable(MlctlError):
    """Nothing is wrong with the request; the platform, the network or the disk could not serve it now."""

    exit_code = 75


class RunExists(MlctlError):
    """The attempt was submitted before, by this caller or another; `run` is that one."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"{run}: this attempt exists already")
        self.run = run

    def __reduce__(self) -> tuple[Any, ...]:  # an exception is pickled by its message alone
        return type(self), (self.run,)


class RunNotFound(MlctlError):
    """The platform knows no such run: it never had it, or no longer remembers it."""


class Interrupted(MlctlError):
    """The caller was told to stop, and there is nothing to end: not yet, or no more."""

    exit_code = 130


class RunFailed(MlctlError):
    """The job itself ended badly. `run` and `status` say which and how."""

    def __init__(self, run: Run, status: Status) -> None:
        text = f"{run.name}: {status.state.value}"
        if status.reason and status.reason.value != status.state.value:
            text += f" ({status.reason.value})"
        if status.message not in ("", status.state.value):
            text += f": {' '.join(status.message.split())}"
        super().__init__(text)
        self.run = run
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run, self.status)

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """1; 75 where another try may help; 124 for a timeout; 130 for a cancelled run."""
        reason = self.status.reason
        if reason is None:
            return 1
        return {"timeout": 124, "cancelled": 130}.get(reason.value, 75 if reason.retryable else 1)


def kind_of(reason: OSError) -> type[MlctlError]:
    """What the system's refusal is: Unauthorized where a right lacks, which no other try changes, else Unavailable."""
    return Unauthorized if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else Unavailable


def refused(path: object, reason: OSError) -> MlctlError:
    """The system's refusal to read or write there, to be raised in its place; `path` may be an address."""
    return kind_of(reason)(f"{path}: {reason.strerror or reason}")


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'command'?` where one of `allowed` is close to `got`, else an empty string."""
    import difflib  # only where something is wrong

    near = difflib.get_close_matches(got, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_line(value: object, limit: int = 80) -> str:
    """`value` as a message can show it: one line, control characters escaped, cut to `limit` characters; the words of
    YAML for what has no other."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= limit else text[: limit - 1] + "…"
