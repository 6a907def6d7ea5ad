"""Azure ML's stand-in, as a process of its own serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from azureml_harness import CREDENTIALS, furnish, settings
from azureml_jobs import Runner
from azureml_proxy import proxying
from azureml_standin import StandIn
from azureml_tls import certificate, serving


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The variables and the target that reach it."""
    authority = folder / "tls"
    authority.mkdir()
    certificate(authority)
    with (
        contextlib.closing(StandIn(serving(authority), Runner(folder / "jobs", authority / "ca.pem"))) as made,
        proxying() as proxy,
    ):
        furnish(made)
        env = {
            **CREDENTIALS, "MSI_ENDPOINT": f"{made.url}/msi", "REQUESTS_CA_BUNDLE": str(authority / "ca.pem"),
            "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1", "AZUREML_DEV_URL_MFE": made.url,
        }  # fmt: skip
        yield env, {"backend": "azureml", **settings(made)}
