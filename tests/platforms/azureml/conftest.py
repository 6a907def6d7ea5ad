"""One stand-in of Azure ML for all these tests, and Azure's own libraries told to talk to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = (
    [] if find_spec("azure") and find_spec("azure.ai") else ["*.py"]
)  # these tests have an environment of their own


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificate is."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def azure(authority: Path) -> Iterator[pytest.MonkeyPatch]:
    """No credentials of this machine's user; names of the stand-in that lead to it."""
    from azureml_harness import CREDENTIALS
    from azureml_tls import certificate, resolve_localhost

    certificate(authority)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AZURE_", "MSI_", "IDENTITY_", "ARM_"))]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority / "ca.pem"))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost,.localhost")
        resolve_localhost(patch)
        yield patch


@pytest.fixture(scope="session")
def standin(azure: pytest.MonkeyPatch, authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The server, which runs jobs."""
    from azureml_harness import furnish
    from azureml_jobs import Runner
    from azureml_standin import StandIn
    from azureml_tls import serving

    made = StandIn(serving(authority), Runner(tmp_path_factory.mktemp("azureml"), authority / "ca.pem"))
    furnish(made)
    azure.setenv("MSI_ENDPOINT", f"{made.url}/msi")
    try:
        yield made
    finally:
        made.close()
