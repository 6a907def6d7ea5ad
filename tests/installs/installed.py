"""Fresh environments with a wheel of this checkout in them: the newest versions allowed, no lock."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 500.0  # a bound of one program, never a pause
UNREACHABLE = r"Failed to fetch|error sending request|Could not connect|dns error|operation timed out"


class Installed:
    """An environment of its own, as `pip install "mlctl[extra]"` makes it, and a home and a folder to work in."""

    def __init__(self, folder: Path, wheel: Path, extra: str, *beside: str) -> None:
        self.bin, self.work = folder / "venv/bin", folder / "work"
        self.work.mkdir()
        kept = (
            "PATH",
            "LANG",
            "SSL_",
            "REQUESTS_CA",
            "CURL_CA",
            "HTTP",
            "http",
            "NO_PROXY",
            "no_proxy",
            "UV_",
            "TMPDIR",
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if name.startswith(kept)},
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "MLCTL_HOME": str(folder / "mlctl"),
            "UV_PYTHON_DOWNLOADS": "never",
        }
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        name = f"mlctl[{extra}]" if extra else "mlctl"
        self._uv("install", "--quiet", "--compile-bytecode", f"{name} @ {wheel.as_uri()}", *beside)
        self._uv("check")

    def _uv(self, *words: str) -> None:
        uv = [Path(sys.executable).parent / "uv", "pip", words[0], "--python", self.bin / "python", *words[1:]]
        done = subprocess.run(uv, env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"}, capture_output=True, text=True)
        if done.returncode and re.search(UNREACHABLE, done.stderr):
            pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *words: str | Path, code: int = 0) -> str:
        """What a program of this environment prints; fails with all that it said unless it ends with `code`."""
        given = [self.bin / words[0], *words[1:]]
        done = subprocess.run(
            given, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def project(self) -> Path:
        """`mlctl init`'s project, which needs nothing but Python."""
        if not (self.work / "demo").exists():
            self.run("mlctl", "init", "demo", "--template", "plain")
        return self.work / "demo"

    @contextmanager
    def serving(self, *words: str, health: str) -> Iterator[None]:
        """A server of this environment, while it answers at `health`; ended at the end, with all that it started."""
        with (self.work / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [self.bin / words[0], *words[1:]], cwd=self.work, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + SECONDS
            while not _answers(health):
                said = (self.work / "server.log").read_text()[-5000:]
                assert process.poll() is None, f"{words[0]} ended with {process.returncode}\n{said}"
                assert time.monotonic() < deadline, f"{words[0]} does not answer\n{said}"
                time.sleep(0.2)
            yield
        finally:
            _end(process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue
    process.wait(20)
