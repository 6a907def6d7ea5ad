"""What a system package brings: found here, installed where that may be done, or missing with a word on how to get it. And programs
that outlive who started them: found again by the number that was noted, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Missing", "end", "install", "need", "noted", "stop"]


class Missing(Exception):
    """A program is not here, and can't be installed by us."""

    def __init__(self, what: str, *packages: str) -> None:
        super().__init__(f"needs {what}: as root, apt-get install {' '.join(packages)}")


def need(program: str, *packages: str) -> None:
    """Returns where `program` is on PATH, installing `packages` if need be. Raises Missing."""
    if not shutil.which(program):
        install(*packages)
    if not shutil.which(program):
        raise Missing(program, *packages)


def install(*packages: str) -> None:
    """Installs Debian packages where that can be done; else does nothing."""
    if os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)  # type: ignore[call-overload]
        words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
        subprocess.run(words, check=False, **quiet)  # type: ignore[call-overload]


def noted(file: Path, word: str) -> int:
    """The process whose number `file` has; 0 where it isn't running, or the number is another's by now, without `word` among
    its words."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(file.read_text())
        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    return 0


def end(
    pid: int,
    find: Callable[[], int],
    process: subprocess.Popen[bytes] | None,
    patience: float,
    how: signal.Signals = signal.SIGTERM,
) -> bool:
    """Ends the process that `find` finds, and waits for that; `process` is the same where it is this one's child. False where
    it is still there after `patience` seconds."""
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, how)
    deadline = time.monotonic() + patience
    while find() == pid and time.monotonic() < deadline:
        if process:
            process.poll()
        time.sleep(0.02)
    return find() != pid


def stop(
    find: Callable[[], int],
    process: subprocess.Popen[bytes] | None,
    patience: float,
    how: signal.Signals = signal.SIGTERM,
) -> bool:
    """As `end`, and kills what is still there then. False where `find` finds nothing to end."""
    pid = find()
    if not pid:
        return False
    if not end(pid, find, process, patience, how):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    if process:
        process.wait(patience)
    return True
