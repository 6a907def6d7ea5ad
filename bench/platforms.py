"""What waiting for runs on managed platforms costs, beside one question for each run, as Airflow's own operators ask.

    python bench/platforms.py [--quick] [--only sagemaker|databricks|azureml]...

Run by the interpreter that has mlctl and the platforms' stand-ins: see `make bench-platforms`. The stand-in, and each of
those who wait, has a process of its own; calls are counted by the stand-in. Nothing is asserted. The figures go to the
console, and to bench/platforms.json when all was measured in full. bench/README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

from measure import ROOT, Sample, Table, run_all, scratch, take_turns

RESULTS = ROOT / "bench" / "platforms.json"
DRIVER = ROOT / "bench" / "drivers" / "waiting.py"
PLATFORMS = ("sagemaker", "databricks", "azureml")
WHO = {"mlctl": "mlctl", "each": "one question a run"}
ROUNDS_A_MINUTE = 60 / 15  # 15 s is the interval of all of them here; Airflow's operators ask every 30 s unless told
FULL = {1: 10, 100: 3, 1_000: 1, 5_000: 1}  # runs -> rounds
QUICK = {1: 3, 100: 1}


class Driver:
    """A process of bench/drivers/waiting.py, which answers a line with a line."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self._process, self._said = process, said

    def line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"bench: {' '.join(map(str, self._process.args))} ended:\n{self._said.read_text()[-2000:]}"
            )
        return line.strip()

    def ask(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.line()


@contextmanager
def driver(folder: Path, *words: str, **variables: str) -> Iterator[Driver]:
    """Started with none of the caller's settings in its environment; ended by the end of its input."""
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder), **variables}
    said = folder / f"{words[0]}-{words[-2]}.log"
    stderr: IO[str]
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(DRIVER), *words], env=env, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):  # fmt: skip
        try:
            yield Driver(process, said)
        finally:
            process.kill()


def waiting(platform: str, runs: int, rounds: int) -> Table:
    """`runs` runs that go on: for each round of questions, the calls that arrived, and the CPU of who waits."""
    with scratch() as folder, ExitStack() as started:
        server = started.enter_context(driver(folder, "serve", platform, str(runs)))
        url, env = json.loads(server.line())
        asking = {
            who: started.enter_context(driver(folder, "ask", platform, str(runs), who, url, **env)) for who in WHO
        }
        for each in asking.values():
            each.line()

        def measure(who: str) -> Iterator[Sample]:
            server.ask()
            took = json.loads(asking[who].ask())
            calls = int(server.ask())
            yield {
                "calls_a_minute": calls * ROUNDS_A_MINUTE,
                "calls_per_run_minute": calls * ROUNDS_A_MINUTE / runs,
                "cpu_ms_per_run_minute": took["cpu"] * ROUNDS_A_MINUTE / runs * 1000,
                "round_s": took["wall"],
            }

        subjects: dict[str, Callable[[], Iterator[Sample]]] = {text: partial(measure, who) for who, text in WHO.items()}
        return take_turns(rounds, subjects, warm_up=0)  # the drivers did


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what waiting costs. Nothing is asserted.")
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works; no platforms.json")
    parser.add_argument("--only", action="append", choices=PLATFORMS, help="this one; repeatable; no platforms.json")
    options = parser.parse_args()
    rows = {
        f"{platform}, {runs:,} runs": partial(waiting, platform, runs, rounds)
        for platform in options.only or PLATFORMS
        for runs, rounds in (QUICK if options.quick else FULL).items()
    }
    versions = {name: version(name) for name in ("mlctl", "boto3", "databricks-sdk", "azure-core")}
    run_all(RESULTS, versions, rows, whole=not (options.quick or options.only))


if __name__ == "__main__":
    main()
