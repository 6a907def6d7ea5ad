"""One stand-in of KFP's API server for all these tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore_glob = (
    [] if find_spec("kfp_server_api") and find_spec("kfp") and find_spec("kfp.kubernetes") else ["*.py"]
)  # these tests have an environment of their own: .envs/kfp


def pytest_configure(config: pytest.Config) -> None:
    """kfp leaves its Docker client's sockets to the garbage collector."""
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp_platform_harness import VARIABLES

    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The server, which runs jobs."""
    from kfp_jobs import Runner
    from kfp_platform_harness import furnish
    from kfp_standin import StandIn

    made = StandIn(Runner(tmp_path_factory.mktemp("kfp")))
    furnish(made)
    yield made
    made.close()


@pytest.fixture
def idle() -> Iterator[object]:
    """A second server, on which runs stay PENDING."""
    from kfp_standin import StandIn

    made = StandIn()
    yield made
    made.close()
