"""A cluster of one node that stays up until it is ended: cluster.py, with a command that notes what it was given and waits."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import cluster
import kind
import system

__all__ = ["Lasting"]

# Noted whole or not at all; then it waits for its end, which is cluster.py's.
_HOLD = """\
umask 077
printf '%s\\n%s\\n' "$MLCTL_TEST_KUBECONFIG" "$DOCKER_HOST" >"$0.new" && mv "$0.new" "$0" && exec sleep infinity"""


class Lasting:
    """One below the folder `at`, which has its log and its number; the cluster's own files go with it. It outlives this process."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self._process: subprocess.Popen[bytes] | None = None  # where this process started it

    @property
    def _note(self) -> Path:
        return self.at / "addresses"

    @property
    def addresses(self) -> tuple[str, str] | None:
        """Its kubeconfig, and its node's Docker engine, whose images the node has; None where it isn't up."""
        if self.pid:
            with contextlib.suppress(OSError, ValueError):
                kubeconfig, engine = self._note.read_text().splitlines()
                return (kubeconfig, engine) if kind.answers(kind.server(Path(kubeconfig).read_text())) else None
        return None

    @property
    def pid(self) -> int:
        """Its process; 0 where it isn't running."""
        return system.noted(self.at / "pid", str(self._note))

    def start(self, patience: float = 600) -> tuple[str, str]:
        """Returns its addresses once its node takes pods. Raises system.Missing; RuntimeError where it doesn't start."""
        cluster.programs()  # minutes, where they are not in the cache: said now, and not in a log
        self.stop()
        self.at.mkdir(parents=True, exist_ok=True)
        self._note.unlink(missing_ok=True)
        words = [sys.executable, str(Path(cluster.__file__)), "/bin/sh", "-c", _HOLD, str(self._note)]
        with (self.at / "log").open("wb") as log:
            process = self._process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        (self.at / "pid").write_text(str(process.pid))
        deadline = time.monotonic() + patience
        while not (found := self.addresses):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the cluster does not start: {(self.at / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        return found

    def stop(self, patience: float = 120) -> bool:
        """Ends it with all that it has, and waits for that; False where it isn't running."""
        pid = self.pid
        if not pid:
            return False
        if not system.end(pid, lambda: self.pid, self._process, patience):
            raise RuntimeError(
                f"process {pid}, which keeps the cluster, did not end in {patience:.0f} s; see {self.at}/log"
            )
        return True
