"""A run as a folder: its life is told by which files are there, and by who holds its lock.

    runs/<stem>/<attempt>/
      plan.json         the request and the stamp; written before the folder has its name
      lock              held (flock) by the submitter until the shim holds it, and by the shim until it ends
      started.<pid>     the shim is process <pid>, the leader of its own group
      timeout, cancel   why it is being ended
      exit.<code>[.why] it ended; the name says all, so that one atomic creation does, even on a full disk
      log, params.json, metrics.jsonl, code/, inputs/, outputs/
    runs/<stem>/checkpoints/     shared by the attempts

The shim is /bin/sh: it notes its start, runs the job, notes its end, and takes with it whatever the job left running.
The lock is its stdin, an open file description that the job does not get; when the shim is gone, however it went, the
lock is free.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlctl.errors import Unavailable
from mlctl.runs import Reason, State, Status

__all__ = [
    "Seen",
    "cancel",
    "held",
    "locked",
    "plan_of",
    "read",
    "reap",
    "see",
    "sleep_until_end",
    "spawn",
    "survivors",
]

# $1 the run's folder, $2 its URL, $3 timeout in seconds or nothing, $4 grace in seconds, $5 where the job works, then
#   its words. Traps:
# - the variables begin with `_`: one that the job's environment has, such as `timeout`, would reach the job changed;
# - `trap :` handles the signals, where `trap ''` would hand the job ignored ones;
# - `true >` and not `: >`, whose failure would end the shell;
# - the job's PATH may lack the shim's own few programs;
# - the watchdog is in the group, so that the group's id cannot be given to others while it may be signalled; it is
#   without MLCTL_RUN, so that nobody waits for it where the shim was killed; a `sleep` that fails is no timeout;
# - what left the group is found, on Linux, by the variable MLCTL_RUN that it inherited.
SHIM = r"""
_run=$1 _url=$2 _timeout=$3 _grace=$4 _work=$5; shift 5
trap : TERM INT HUP QUIT USR1 USR2
cd "$_work" && true > "$_run/started.$$" || exit 70
if [ -e "$_run/cancel" ]; then true > "$_run/exit.143.cancel"; exit; fi
if [ -n "$_timeout" ]; then
  MLCTL_RUN= PATH=$PATH:/bin:/usr/bin /bin/sh -c '
    trap "" TERM INT HUP QUIT USR1 USR2
    sleep "$2" || exit
    true > "$1/timeout"; kill -TERM 0
    sleep "$3"; kill -KILL 0
  ' mlctl "$_run" "$_timeout" "$_grace" </dev/null >/dev/null 2>&1 &
fi
"$@" </dev/null
_code=$? _why= PATH=$PATH:/bin:/usr/bin
[ -e "$_run/timeout" ] && _why=.timeout
[ -e "$_run/cancel" ] && _why=.cancel
[ "$_code" = 137 ] && grep -s '^oom_kill ' /proc/vmstat > "$_run/oom"
if [ -n "$_why" ]; then
  for _pid in $(grep -lsxzF "MLCTL_RUN=$_url" /proc/[0-9]*/environ 2>/dev/null); do
    _pid=${_pid#/proc/} _pid=${_pid%/environ}
    [ "$_pid" = $$ ] || kill -KILL "$_pid" 2>/dev/null
  done
fi
until true > "$_run/exit.$_code$_why" || [ ! -d "$_run" ]; do sleep 1; done 2>/dev/null
kill -KILL 0
"""

# $1 the run's folder, $2 its URL, $3 the shim's pid, $4 grace in seconds. In a session of its own: it outlives the
#   canceller.
# The group is signalled only while the shim, which holds the lock, has not noted its end, and, on Linux, is there.
CANCEL = r"""
kill -s TERM -- "-$3"
tenths=$(($4 * 10))
while [ "$tenths" -gt 0 ]; do
  for found in "$1"/exit.*; do [ -e "$found" ] && exit; done
  sleep 0.1; tenths=$((tenths - 1))
done
for found in "$1"/exit.*; do [ -e "$found" ] && exit; done
if [ ! -d /proc/self ] || grep -qsxzF "MLCTL_RUN=$2" "/proc/$3/environ"; then kill -s KILL -- "-$3"; fi
for found in $(grep -lsxzF "MLCTL_RUN=$2" /proc/[0-9]*/environ 2>/dev/null); do
  found=${found#/proc/}; kill -KILL "${found%/environ}" 2>/dev/null
done
"""

_SIGNALS = {128 + number: signal.Signals(number).name for number in (1, 2, 3, 6, 9, 11, 13, 15)}
_SETTABLE = [int(number) for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
_COARSE = 2_000_000_000  # ns: no file system keeps a folder's time more coarsely
_children: set[int] = set()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Makes the file `path`, locked, and gives it open: beyond the standard three, which a caller may have closed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if fd < 3:
            low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def together(lock: Path, how: int) -> Iterator[None]:
    """Holds it, the folder of a run's attempts or an environment's lock: shared (LOCK_SH) while a run begins to use it, alone
    (LOCK_EX) while gc judges and takes it. Nobody waits: raises BlockingIOError; FileNotFoundError where there is none."""
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def spawn(
    script: str, args: Sequence[str], env: Mapping[str, str], stdin: int | None = None, log: Path | None = None
) -> int:
    """Runs a shell script in a session of its own, every signal at its default; gives the id of its process.

    `stdin` is an open file to hand over; without it, and without `log`, /dev/null. What else the caller left open for
    its children, such as the lock of flock(1) or a pipe that somebody reads to its end, stays here.
    """
    reap()
    out = str(log) if log else os.devnull
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0) if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
    ]
    pid = os.posix_spawn(  # its first word is "sh", by which busybox knows what it is to be
        "/bin/sh", ["sh", "-c", script, "mlctl", *args], dict(env), file_actions=actions, setsid=True, setsigmask=[],
        setsigdef=_SETTABLE,
    )  # fmt: skip
    _children.add(pid)
    return pid


def _inheritable() -> list[int]:
    """The open files, beyond the standard three, that a child of this process would get."""
    found = []
    for fd in map(int, os.listdir("/dev/fd")):  # noqa: PTH208
        with contextlib.suppress(OSError):  # closed meanwhile, as the listing's own is
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def reap() -> None:
    """Collects the shims of this process that have ended, so that none stays a zombie."""
    for pid in tuple(_children):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:  # somebody else's waitpid(-1) had it
            ended = pid
        if ended:
            _children.discard(pid)


def _names(folder: Path | str) -> dict[str, str]:
    """{"started": "123", "exit": "0.cancel", "plan": "json", ...}. Raises FileNotFoundError."""
    names = {}
    for name in os.listdir(folder):  # noqa: PTH208 - as fast as it gets, half the time of a dict of slices
        head, _, tail = name.partition(".")
        names[head] = tail
    return names


def read(folder: Path | str) -> Status:
    """What the folder says. Raises FileNotFoundError where there is none."""
    names = _names(folder)
    if "exit" not in names:
        if held(f"{folder}/lock"):
            started = _time(folder, "started", names)
            if started is None:
                return Status(State.STARTING)
            if "cancel" in names or "timeout" in names:
                return Status(State.STOPPING, message="asked to stop", started=started)
            return Status(State.RUNNING, started=started)
        names = _names(folder)  # what the holder wrote before it let go
    if "exit" not in names:
        return _verdict(Path(folder), names)
    return _ended(Path(folder), names)


@dataclass(slots=True)
class Seen:
    """What a folder said, and its time then, ns since 1970; None where it was too young to tell every later change.

    Changed in place: thousands of new objects a call have Python look through all that a process has for garbage, 0.7 s in a
    triggerer with as many triggers, in which it does nothing else.
    """

    status: Status
    changed: int | None
    trusted: int = 0
    """How many calls more take it for granted that the run has its shim."""


def see(folder: str, before: Seen | None, trust: int = 0) -> Seen:
    """As `read`, but lists the folder only where it isn't as it was `before`; that a shim was killed, which changes nothing
    in it, may be found out `trust` calls late.

    Asked for thousands of runs twice a second: each call of the system costs, beside a busy thread.
    """
    changed = os.stat(folder).st_mtime_ns  # noqa: PTH116 - as fast as it gets
    if before and before.changed == changed:
        if before.trusted and trust:
            before.trusted -= 1
            return before
        if held(f"{folder}/lock"):
            before.trusted = trust
            return before
    known = changed if time.time_ns() - changed > _COARSE else None
    return Seen(read(folder), known, hash(folder) % (trust + 1))  # so that not all are due in the same call


def held(lock: Path | str) -> bool:
    """True while somebody, such as a run's submitter or its shim, holds the lock; False too where there is no such
    file."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _verdict(folder: Path, names: dict[str, str]) -> Status:
    """Nobody holds the lock and no end was noted: whoever held it was killed. What is found is noted, so that it stays
    true."""
    if "plan" not in names:
        raise FileNotFoundError(errno.ENOENT, "no run", str(folder))
    host = plan_of(folder)["host"]
    if host != socket.gethostname():
        raise Unavailable(f"{folder}: its keeper is gone, and only {host} can tell what is left of it; ask there")
    started = _time(folder, "started", names)
    if started is not None and (left := survivors(folder, int(names["started"]))):
        text = f"its shim was killed; waiting for {len(left)} of its processes to end; mlctl cancel ends them now"
        return Status(State.STOPPING, message=text, started=started)
    why = next((name for name in ("cancel", "timeout") if name in names), "abandoned" if started is None else "infra")
    with contextlib.suppress(OSError):
        (folder / f"exit.none.{why}").touch()
    return _ended(folder, {**names, "exit": f"none.{why}"})


def _ended(folder: Path, names: dict[str, str]) -> Status:
    text, _, why = names["exit"].partition(".")
    code = int(text) if text.isdigit() else None
    times: dict[str, Any] = {"started": _time(folder, "started", names), "finished": _time(folder, "exit", names)}
    if why == "cancel":
        return Status(State.CANCELLED, Reason.CANCELLED, "cancelled", code, **times)
    if why == "timeout":
        return Status(
            State.FAILED,
            Reason.TIMEOUT,
            f"ran longer than its timeout of {plan_of(folder)['request']['timeout']}s",
            code,
            **times,
        )
    if why == "abandoned":
        return Status(
            State.FAILED, Reason.ABANDONED, "never started: its submitter died before it could", None, **times
        )
    if why == "infra":
        return Status(State.FAILED, Reason.INFRA, "its shim was killed: the job's own end is not known", None, **times)
    if code == 0:
        return Status(State.SUCCEEDED, exit_code=0, **times)
    reason, message = Reason.ERROR, f"exit code {code}"
    if code == 137 and "oom" in names and _oom_kills(folder / "oom") > plan_of(folder).get("oom_kills", 0):
        reason, message = (
            Reason.OOM,
            "out of memory: killed by SIGKILL while the kernel's out-of-memory killer was at work",
        )
    elif code in _SIGNALS:
        message += f", as a shell reports {_SIGNALS[code]}"
    elif code in (126, 127):
        message += ": the command could not be run" if code == 126 else ": no such command"
    return Status(State.FAILED, reason, message, code, **times)


def _time(folder: Path | str, name: str, names: dict[str, str]) -> datetime | None:
    if name not in names:
        return None
    return datetime.fromtimestamp(os.stat(f"{folder}/{name}.{names[name]}").st_mtime, timezone.utc)  # noqa: PTH116 - as fast as it gets


def _oom_kills(path: Path) -> int:
    """How many processes the kernel's out-of-memory killer has ended since boot, as `path` says; 0 where it doesn't."""
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def oom_kills() -> int:
    """The kernel's count now; 0 on a system that has none."""
    return _oom_kills(Path("/proc/vmstat"))


def plan_of(folder: Path) -> dict[str, Any]:
    """{"request": ..., "stamp": ..., "host": ..., "created": ...}. Raises FileNotFoundError; OSError for a file that
    a power cut left damaged."""
    path = folder / "plan.json"
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        raise OSError(errno.EIO, f"is damaged; remove {folder}", str(path)) from None
    return data


def survivors(folder: Path, group: int) -> list[int]:
    """The processes of a run whose shim is gone: on Linux those that carry its URL, elsewhere its group, as [the
    group]."""
    mark = b"MLCTL_RUN=" + plan_of(folder)["request"]["env"]["MLCTL_RUN"].encode()
    if not os.path.isdir("/proc/self"):  # noqa: PTH112
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [group]
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as stream:  # noqa: PTH123
                    if mark in stream.read().split(b"\0"):
                        found.append(int(name))
            except OSError:  # ended meanwhile, or another user's
                continue
    return found


def sleep_until_end(folders: Sequence[Path], seconds: float) -> None:
    """Returns after `seconds`, or as soon as one of the runs' shims has ended. Linux only."""
    deadline = time.monotonic() + seconds
    poll, opened = select.poll(), []
    try:
        for path in folders:
            while True:  # a run that is starting has no process to wait for yet
                names = _names(path)
                if "exit" in names or time.monotonic() >= deadline:
                    return
                if "started" in names:
                    break
                time.sleep(min(0.0002, seconds))
            opened.append(os.pidfd_open(int(names["started"])))
            poll.register(opened[-1], select.POLLIN)
        if poll.poll(0):  # a zombie
            raise ProcessLookupError
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    except FileNotFoundError:  # no run of this machine
        time.sleep(seconds)
    except OSError:  # ended between the listing and the opening, or was killed before it could note its end
        time.sleep(min(0.1, seconds))
    finally:
        for fd in opened:
            os.close(fd)


def cancel(folder: Path, url: str, grace: int) -> None:
    """Asks the run to end: SIGTERM to its group now, SIGKILL to whatever is left after `grace` seconds, by a process of
    its own.

    Asked again after the grace, it kills at once. Returns without waiting. A no-op where the run has ended.
    """
    status = read(folder)
    if status.state.terminal:
        return
    mark = folder / "cancel"
    try:
        mark.touch(exist_ok=False)
        first = True
    except FileExistsError:
        first = False
    names = _names(folder)
    if "exit" in names or "started" not in names:  # the shim looks for the mark before it starts the job
        return
    shim = int(names["started"])
    if not held(folder / "lock"):
        for pid in survivors(folder, shim):
            _signal(os.kill if os.path.isdir("/proc/self") else os.killpg, pid)  # noqa: PTH112
    elif first:
        spawn(CANCEL, [str(folder), url, str(shim), str(grace)], {"PATH": os.defpath})
    elif time.time() - mark.stat().st_mtime > grace + 1:
        _signal(os.killpg, shim)


def _signal(send: Any, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        send(pid, signal.SIGKILL)
