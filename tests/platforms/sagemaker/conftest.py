"""One stand-in of SageMaker for all these tests, with a bucket and a role in it, and boto3 told to talk to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore_glob = (
    [] if find_spec("moto") and find_spec("boto3") else ["*.py"]
)  # these tests have an environment of their own


@pytest.fixture(scope="session")
def aws() -> Iterator[pytest.MonkeyPatch]:
    """Credentials that are nobody's."""
    from sagemaker_harness import CREDENTIALS

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="session")
def standin(aws: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The server, which runs jobs."""
    from sagemaker_harness import furnish
    from sagemaker_jobs import Runner
    from sagemaker_standin import StandIn

    made = StandIn(Runner(tmp_path_factory.mktemp("sagemaker")))
    aws.setenv("AWS_ENDPOINT_URL", made.url)
    try:
        furnish(made.url)
        yield made
    finally:
        made.close()


@pytest.fixture
def idle(aws: pytest.MonkeyPatch, standin: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A second server of the same account, on which jobs stay InProgress."""
    from sagemaker_standin import StandIn

    made = StandIn()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()
