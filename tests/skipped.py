"""What the suites could not run on this machine, and why: each notes its own, and the last word of `make test` is the table.

python tests/skipped.py     # the table, of the last run of each suite
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import behaviour

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "build/skipped"


class Recorder:
    """A plugin of pytest's: keeps what a run of tests skipped in build/skipped/SUITE.json, a test and its reason a line of it.

    A suite is what pytest was asked to run. Its file is removed when a run begins and written when it ends: who is killed
    leaves none, rather than that of the run before.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.path = FOUND / f"{suite(config)}.json"
        self.found: list[tuple[str, str]] = []

    def pytest_sessionstart(self) -> None:
        self.path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and behaviour.GIVEN_UP not in str(report.longrepr):
            self.found.append((report.nodeid, reason(report)))

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1))


def suite(config: pytest.Config) -> str:
    """`core`; else the folder below tests, `platforms-docker`: of the first thing that pytest was asked to run."""
    asked = config.args[0].partition("::")[0] if config.args_source.name == "ARGS" else ""
    path = (config.invocation_params.dir / asked).resolve()
    tests = ROOT / "tests"
    return "-".join(path.relative_to(tests).with_suffix("").parts) if asked and tests in path.parents else "core"


def reason(report: Any) -> str:
    """Why a test was skipped, as it said."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def main() -> int:
    """Prints a line a suite and reason, most tests first; one line where nothing was skipped. 1 where something was although
    CI provides everything."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(FOUND.glob("*.json")):
        found.update((path.stem, why) for _, why in json.loads(path.read_text()))
    if not found:
        print("skipped: nothing")
        return 0
    lines = [
        ("suite", "tests", "skipped, because"),
        *((name, str(count), why) for (name, why), count in found.most_common()),
    ]
    wide, narrow = (max(len(line[at]) for line in lines) for at in (0, 1))
    for name, count, why in lines:
        print(f"{name:{wide}}  {count:>{narrow}}  {why}")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    raise SystemExit(main())
