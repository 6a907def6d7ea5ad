"""Databricks passes the one contract, on minilake behind our proxy."""

from __future__ import annotations

import pytest

from mlctl.testing import BackendContract

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the SDK leaves its connections to the collector


class TestDatabricks(BackendContract):
    """The harness is the one in conftest.py."""
