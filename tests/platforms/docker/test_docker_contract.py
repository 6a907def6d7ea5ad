"""Docker passes the one contract, on an engine of the tests' own."""

from __future__ import annotations

import pytest

from mlctl.testing import BackendContract

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the SDK leaves its connections to the collector


class TestDocker(BackendContract):
    """The harness is the one in conftest.py."""
