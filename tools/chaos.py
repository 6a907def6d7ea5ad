"""Kills `mlctl run` at random moments, and checks that the job ran once all the same.

Each round starts `mlctl run job.yaml --key K`, sends it SIGKILL, and runs the same command again, to its end. Then the
job must have been started exactly once, and the second command must have ended with the job's own exit code and metric.
One half of the kills comes at any moment from before the first import to after the job's end, the other within the few
milliseconds in which the run is made.

    python tools/chaos.py --runs 200 --seed 7

Prints one line a violation, and one to close. Exit code 0: none; 1: some; 2: the job doesn't run here at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlctl import api
from mlctl.errors import MlctlError
from mlctl.runs import Key

JOB = """\
kind: process
name: chaos
code: code
command:
  shell: |
    echo start >> "$COUNT"
    echo "{\\"name\\": \\"m\\", \\"value\\": $VALUE}" > "$MLCTL_METRICS_FILE"
    sleep 0.1
    exit "$CODE"
params: {count: "", value: 0, code: 0}
env: {COUNT: "${{params.count}}", VALUE: "${{params.value}}", CODE: "${{params.code}}"}
"""
MLCTL = [sys.executable, "-c", "from mlctl.cli import main; main()"]
PLACES = ("nothing there yet", "abandoned", "running", "finished")


class Round:
    """One key: the command, where it was hit, and what came of it."""

    def __init__(self, folder: Path, number: int, code: int) -> None:
        self.count = folder / f"starts-{number}"
        self.job = folder / "job.yaml"
        self.params = {"count": str(self.count), "value": number, "code": code}
        self.key = f"chaos-{number}"
        self.number, self.code = number, code

    def start(self) -> subprocess.Popen[str]:
        params = [word for name, value in self.params.items() for word in ("--param", f"{name}={value}")]
        words = [*MLCTL, "run", str(self.job), *params, "--key", self.key, "--json"]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def made(self) -> bool:
        """True once the run's folder is being made."""
        return Path(os.environ["MLCTL_HOME"], "runs", Key(self.key, "chaos").stem()).exists()

    def found(self) -> str:
        """What the killed command left: one of PLACES."""
        execution = api.execution(self.job, params=self.params, key=self.key)
        attempts = execution.backend.find(execution.key)
        if not attempts:
            return PLACES[0]
        status = attempts[-1].status
        if status.reason and status.reason.value == "abandoned":
            return PLACES[1]
        return PLACES[3] if status.state.terminal else PLACES[2]

    def violations(self) -> list[str]:
        """Runs the command to its end; what it got wrong."""
        out, err = (process := self.start()).communicate()
        wrong = []
        if process.returncode != (1 if self.code else 0):
            wrong.append(f"exit code {process.returncode}: {err.strip()}")
        starts = self.count.read_text().count("\n") if self.count.exists() else 0
        if starts != 1:
            wrong.append(f"started {starts} times")
        try:
            answer = json.loads(out)
            got = (answer["status"]["exit_code"], answer["metrics"])
        except (ValueError, LookupError, TypeError):
            got = out
        if got != (self.code, {"m": float(self.number)}):
            wrong.append(f"expected exit code {self.code} and metric {self.number}, got {got}")
        return wrong


def main() -> int:
    """Runs the rounds; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many rounds (200)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; shown at the end")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="mlctl-chaos-") as name:
        folder = Path(name)
        (folder / "code").mkdir()
        (folder / "code" / "data").write_text("x" * 100_000)
        (folder / "job.yaml").write_text(JOB)
        os.environ["MLCTL_HOME"] = str(folder / "home")
        began = time.monotonic()
        if wrong := Round(folder, 0, 0).violations():
            print(f"chaos: the job doesn't run here: {'; '.join(wrong)}")
            return 2
        whole = time.monotonic() - began
        places: Counter[str] = Counter()
        failed = 0
        for number in range(1, options.runs + 1):
            this = Round(folder, number, dice.choice((0, 0, 3, 137)))
            with this.start() as process:
                if dice.random() < 0.5:
                    time.sleep(dice.uniform(0, whole * 1.1))
                else:
                    while not this.made() and process.poll() is None:
                        time.sleep(0.000_1)
                    time.sleep(dice.uniform(0, 0.006))
                process.kill()
            try:
                place = this.found()
                wrong = this.violations()
            except MlctlError as error:
                place, wrong = "broken", [str(error)]
            places[place] += 1
            if wrong:
                failed += 1
                print(f"chaos: round {number}, hit with {place}: {'; '.join(wrong)}")
    counts = ", ".join(f"{place} {places[place]}" for place in (*PLACES, *(places.keys() - set(PLACES))))
    print(f"chaos: {options.runs} runs killed with seed {seed}; hit where: {counts}; violations: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
