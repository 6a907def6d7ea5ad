"""Kubernetes passes the one contract, on a real cluster."""

from __future__ import annotations

import pytest

from mlctl.testing import BackendContract

pytestmark = pytest.mark.timeout(600)


class TestKubernetes(BackendContract):
    """The harness is the one in conftest.py."""
