"""What every test gets: a home of its own, no configuration from outside, and a check that it left no process behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools/services"))  # docker_engine, ports, system, ...
pytest.register_assert_rewrite("behaviour", "matrix")
import behaviour  # noqa: E402
import skipped  # noqa: E402

settings.register_profile(
    "mlctl", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("mlctl")

_GRACE = 30.0  # seconds that a run that has just ended gets to leave /proc; a machine may be busy


def processes_of(home: Path) -> list[int]:
    """The processes that carry the URL of a run of `home`, this one aside. Linux only; elsewhere none is seen."""
    mark = b"MLCTL_RUN=local://"
    path = str(home).encode() + b"/"
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if any(word.startswith(mark) and path in word for word in words) and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """MLCTL_HOME of this test alone. Fails the test that leaves a process of a run; mark it `leaves_processes` to let
    them be killed quietly."""
    for name in [name for name in os.environ if name.startswith("MLCTL_")]:
        monkeypatch.delenv(name)
    made = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MLCTL_HOME", str(made))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("xdg")))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path_factory.mktemp("site")))
    yield made
    if not (made / "runs").is_dir():  # nothing was ever started: no need to read all of /proc
        return
    means_to = request.node.get_closest_marker("leaves_processes")
    deadline = time.monotonic() + (0 if means_to else _GRACE)
    while (left := processes_of(made)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left and not means_to:
        pytest.fail(f"{len(left)} processes of this test's runs were left, and are killed now: {left}")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project: a folder that ends the search for configuration, and the working folder."""
    made = tmp_path / "project"
    (made / ".git").mkdir(parents=True)
    monkeypatch.chdir(made)
    return made


def _terminated(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise KeyboardInterrupt("SIGTERM")


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGTERM, _terminated)  # as Ctrl-C: fixtures end the servers that they started
    config.pluginmanager.register(behaviour.Recorder(), "behaviour")
    if config.rootpath == skipped.ROOT:  # not a test's own tests
        config.pluginmanager.register(skipped.Recorder(config), "skipped")
    config.addinivalue_line("markers", "leaves_processes: the test means to leave processes; they are killed quietly")


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Collects what libraries left open to the very end, which is no test's: pytest would end with a traceback for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):  # as often as pytest does: what is collected may leave more
            gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI provides everything, a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and behaviour.GIVEN_UP not in str(report.longrepr):
        why = skipped.reason(report)
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: skipped, where CI provides all: {why}"
    return report
