"""A registry of images on this machine, Debian's docker-registry: for `make services`, and for the tests of images."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import system

__all__ = ["Registry"]

_PORTS = range(5000, 5100)
"""From the one that registries have on; the system gives none of them to anybody who asks for any."""


class Registry:
    """docker-registry, with all that it is given below the folder `at`, on this machine's loopback only.

    It outlives this process; `stop` ends it, by the id that it noted. Docker takes a registry of 127.0.0.1 without TLS.
    """

    def __init__(self, at: Path) -> None:
        self.at = at
        self._process: subprocess.Popen[bytes] | None = None  # where this process started it

    @property
    def address(self) -> str:
        """HOST:PORT, as the name of an image begins; the same whenever it is started again. Empty before its first start."""
        with contextlib.suppress(OSError):
            if found := re.search(r"127\.0\.0\.1:\d+", self._config.read_text()):
                return found[0]
        return ""

    @property
    def _config(self) -> Path:
        return self.at / "config.yml"

    def answers(self) -> bool:
        """True where a registry does."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5) as answer:
            return bool(self.address) and answer.status == 200
        return False

    def start(self, patience: float = 60) -> None:
        """Returns once it answers, where it did before, and unless it has images yet at the first port from 5000 on that nobody
        has. Raises system.Missing; RuntimeError where it doesn't start."""
        system.need("docker-registry", "docker-registry")
        self.at.mkdir(parents=True, exist_ok=True)
        places = [self.address] if self.address else []
        if not (self.at / "data").exists():
            places += [f"127.0.0.1:{port}" for port in _PORTS]
        for place in places:
            if place != self.address:
                draft = self.at / "config.new"
                draft.write_text(
                    f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self.at}/data}}}}\n"
                    f"http: {{addr: '{place}'}}\n"
                )
                draft.rename(self._config)
            said = self._serve(patience)
            if "address already in use" not in said:
                break
        if said:
            raise RuntimeError(f"docker-registry does not start: {said}")

    def _serve(self, patience: float) -> str:
        """Starts it; nothing once it answers, else what it said last. What answers may be another at its place: so it has to say
        that it listens, first."""
        with (self.at / "log").open("ab") as log:
            begun = log.tell()
            words = ["docker-registry", "serve", str(self._config)]
            process = self._process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        (self.at / "pid").write_text(str(process.pid))
        deadline = time.monotonic() + patience
        while True:
            over = process.poll() is not None or time.monotonic() > deadline
            said = (self.at / "log").read_bytes()[begun:].decode(errors="replace")
            if over:
                self.stop()
                return said[-500:] or "it says nothing"
            if "listening on" in said and self.answers():
                return ""
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process; 0 where it isn't running."""
        return system.noted(self.at / "pid", str(self._config))

    def stop(self, patience: float = 60) -> None:
        """Ends it, and waits for its end; its images stay. A no-op where it isn't running."""
        system.stop(lambda: self.pid, self._process, patience)
