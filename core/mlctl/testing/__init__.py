"""The conformance suite that every platform passes: mlctl's own, and yours.

    class TestMine(BackendContract):
        @pytest.fixture
        def harness(self, tmp_path): return MyHarness(tmp_path)

A harness makes backends; it looks at the platform by other means than the backend under test, and breaks it on
purpose. What it cannot do is printed as *unproven*; nothing is skipped. Needs pytest.
"""

from __future__ import annotations

from .harness import FAULTS, HOSTILE, Harness, Native
from .suite import BackendContract

__all__ = ["FAULTS", "HOSTILE", "BackendContract", "Harness", "Native"]
