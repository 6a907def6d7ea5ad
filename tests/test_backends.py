"""Every platform passes the one contract."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.runs import Run
from mlctl.testing import BackendContract, Harness, Native
from mlctl.testing.purity import pure


class LocalHarness(Harness):
    """Looks at folders and at /proc; breaks the disk."""

    faults = frozenset({"throttled", "lost_response"})

    def __init__(self, home: Path) -> None:
        self.home = home

    def make(self) -> Backend:
        return backend.load("local", Settings("local", {"grace": 2}, self.home))

    def native(self, run: Run) -> Native:
        stem, _, attempt = run.name.rpartition("-")
        count = len(list((self.home / "runs").glob(f"{stem}/{attempt}")))
        mark = f"MLCTL_RUN={run}".encode()
        return Native(count, any(mark in environ for environ in _environments()))

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        if fault == "lost_response":  # the caller of submit never hears of it
            real = os.posix_spawn

            def spawn_and_lose(*args: object, **options: object) -> int:
                real(*args, **options)  # type: ignore[arg-type]
                raise OSError(5, "Input/output error")

            os.posix_spawn = spawn_and_lose  # type: ignore[assignment]
            try:
                yield
            finally:
                os.posix_spawn = real
            return
        away = self.home.with_name("away")  # a disk that fails: what should be a folder is none
        self.home.rename(away)
        self.home.write_text("no folder")
        try:
            yield
        finally:
            self.home.unlink()
            away.rename(self.home)


def _environments() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


IMPURE: dict[str, Callable[[], object]] = {
    "reads": lambda: Path("/dev/null").read_bytes(),
    "lists": lambda: list(Path("/").iterdir()),
    "asks the clock": lambda: time.time(),
}


@pytest.mark.parametrize("what", IMPURE)
def test_what_is_not_pure_is_caught(what: str) -> None:
    with pytest.raises(AssertionError, match=r"^plan is pure, and "), pure():
        IMPURE[what]()
    IMPURE[what]()


class TestLocal(BackendContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> LocalHarness:
        return LocalHarness(tmp_path / "home")
