"""What mlctl costs, beside plain subprocess and the tools nearest to it: starting, one job, many, a full home.

    python bench/run.py [--quick] [--only start|job|many|home]...

Run by the interpreter that has mlctl. The peers run in an environment of their own, of the same Python, made from
locks/bench-peers.txt. All take turns within one run (A B C A B C ...), one process at a time, after a round that isn't
counted. Nothing is asserted. The figures go to the console, and to bench/results.json when all was measured in full.
Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from measure import ROOT, Sample, Table, installed, run_all, scratch, take_turns

LOCK = ROOT / "locks" / "bench-peers.txt"
RESULTS = ROOT / "bench" / "results.json"
DRIVERS = ROOT / "bench" / "peers"
PEERS_ENV = ROOT / ".envs" / "bench-peers"
PEERS_PYTHON = str(PEERS_ENV / "bin" / "python")
OWN_PYTHON = sys.executable
MLCTL = str(Path(sys.executable).with_name("mlctl"))
TRUE = shutil.which("true") or "/bin/true"

# Who runs jobs, and by which interpreter. mlctl first: the ratios are to the first.
DRIVER_PYTHON = {"mlctl": OWN_PYTHON, "subprocess": OWN_PYTHON}
DRIVER_PYTHON |= {"psij": PEERS_PYTHON, "submitit": PEERS_PYTHON, "torchx": PEERS_PYTHON}


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    start_rounds: int = 20
    job_rounds: int = 10
    jobs_a_round: int = 8
    many_rounds: int = 3
    many_jobs: int = 1_000
    slow_jobs: int = 100  # of submitit and torchx, which take 50 to 300 ms a job; the figures are per job
    home_rounds: int = 5
    home_runs: int = 10_000


QUICK = Settings(3, 2, 4, 1, 100, 10, 2, 500)


# --- measuring


def run(argv: list[str], folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in `folder`, with none of the caller's settings in its environment."""
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}
    env["MLCTL_HOME"] = str(home)
    stdin = subprocess.DEVNULL
    done = subprocess.run(argv, cwd=folder, env=env, stdin=stdin, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(argv)[:200]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def wall_ms(argv: list[str], folder: Path, home: Path) -> float:
    begin = time.perf_counter()
    run(argv, folder, home)
    return (time.perf_counter() - begin) * 1000


def drive(name: str, mode: str, count: int, command: list[str], home: Path | None = None) -> list[dict[str, int]]:
    """What the driver bench/peers/NAME_.py prints, run in a fresh folder; see common.py there."""
    with scratch() as folder:
        argv = [DRIVER_PYTHON[name], str(DRIVERS / f"{name}_.py"), mode, str(count), *command]
        lines = run(argv, folder, home or folder / "mlctl").stdout.splitlines()
    return [json.loads(line) for line in lines]


# --- the benchmarks


def start(settings: Settings) -> Table:
    """A fresh interpreter that imports, or shows its help, and ends: wall time and peak memory of the whole process."""
    show_help = "import sys; sys.argv = ['mlctl', '--help']; from mlctl.cli import main; main()"
    # `import mlctl` loads nothing yet: what to put beside the peers' imports is the one that loads the API.
    codes = ("from mlctl import run, submit", "import mlctl", "import mlctl.runtime")
    rows = [(code, OWN_PYTHON, code) for code in codes]
    rows += [("mlctl --help", OWN_PYTHON, show_help), ("python -c pass, mlctl's environment", OWN_PYTHON, "pass")]
    rows += [("python -c pass, the peers'", PEERS_PYTHON, "pass")]
    peers = ("dagster_pipes", "torchx.specs", "torchx.runner", "submitit", "psij")
    rows += [(f"import {module}", PEERS_PYTHON, f"import {module}") for module in peers]
    # Registered first, so called last: the peak of all that the code did.
    note = "import atexit, sys; atexit.register(lambda: sys.stderr.write(open('/proc/self/status').read()))\n"

    def measure(name: str, python: str, code: str) -> Iterator[Sample]:
        argv = [MLCTL, "--help"] if name == "mlctl --help" else [python, "-c", code]
        wall = wall_ms(argv, folder, folder)
        status = run([python, "-c", note + code], folder, folder).stderr
        yield {"wall_ms": wall, "peak_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}

    with scratch() as folder:
        return take_turns(settings.start_rounds, {row[0]: partial(measure, *row) for row in rows})


def one_job(command: list[str], settings: Settings) -> Table:
    """One trivial job at a time: a fresh process, from its start until its first job is known; then the jobs after it."""

    def measure(name: str) -> Iterator[Sample]:
        begin = time.monotonic_ns()  # the clock of the drivers, too
        first, *rest = drive(name, "each", settings.jobs_a_round + 1, command)
        yield {"fresh_process_ms": (first["known"] - begin) / 1e6}
        for times in rest:
            sample = {"whole_ms": (times["known"] - times["call"]) / 1e6}
            if "started" in times:
                sample["call_to_start_ms"] = (times["started"] - times["call"]) / 1e6
                sample["end_to_known_ms"] = (times["known"] - times["ended"]) / 1e6
            yield sample

    return take_turns(settings.job_rounds, {name: partial(measure, name) for name in DRIVER_PYTHON})


def many(settings: Settings) -> Table:
    """Many trivial jobs, two at a time: wall time by their number; the driver's peak memory after one, and all."""
    counts = dict.fromkeys(DRIVER_PYTHON, settings.many_jobs)
    counts |= dict.fromkeys(("submitit", "torchx"), settings.slow_jobs)
    subjects = {f"{name}, {count:,} jobs": partial(many_of, name, count) for name, count in counts.items()}
    return take_turns(settings.many_rounds, subjects, warm_up=0)  # a driver runs one job before it counts


def many_of(name: str, count: int, home: Path | None = None) -> Iterator[Sample]:
    [line] = drive(name, "many", count, [TRUE], home)
    memory = {"peak_after_first_mib": line["before"] / 2**20, "peak_mib": line["peak"] / 2**20}
    yield {"per_job_ms": line["wall"] / count / 1e6} | memory


def full_home(settings: Settings) -> Table:
    """mlctl where one run has finished, beside where thousands have: what grows with them?"""
    job = {"kind": "process", "name": "bench", "command": [TRUE]}
    run_one = f"import mlctl; print(mlctl.run({job!r}, target='local').url)"

    def measure(place: Path | None) -> Iterator[Sample]:
        with scratch() as folder:
            home = place or folder / "home"
            run_url = run([OWN_PYTHON, "-c", run_one], folder, home).stdout.strip()
            yield {"list_20_ms": wall_ms([MLCTL, "list"], folder, home)}  # what it shows by default
            yield {"list_all_ms": wall_ms([MLCTL, "list", "--limit", "1000000"], folder, home)}
            yield {"status_ms": wall_ms([MLCTL, "status", run_url], folder, home)}
            yield from many_of("mlctl", settings.many_jobs // 5, home)

    with scratch() as full:
        filling = {f"filling it, {settings.home_runs:,} jobs": partial(many_of, "mlctl", settings.home_runs, full)}
        filled = take_turns(1, filling, warm_up=0)
        subjects = {"1 finished run": partial(measure, None)}
        subjects[f"{settings.home_runs:,} finished runs"] = partial(measure, full)
        return take_turns(settings.home_rounds, subjects) | filled


NOTES_TIMES = [OWN_PYTHON, "-I", "-S", str(DRIVERS / "job.py"), "job.times"]
BENCHMARKS: dict[str, dict[str, Callable[[Settings], Table]]] = {
    "start": {"start": start},
    "job": {"job: Python that notes its times": partial(one_job, NOTES_TIMES), "job: true": partial(one_job, [TRUE])},
    "many": {"many": many},
    "home": {"home": full_home},
}


# --- the peers' environment, and what is said of it all


def make_peers_env() -> None:
    """Make the peers' environment, unless the one that is there was made to its end from this lock by this Python."""
    made_of = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    note = PEERS_ENV / "made-of"
    if note.exists() and note.read_text() == made_of:
        return
    print(f"making {PEERS_ENV.relative_to(ROOT)} from {LOCK.relative_to(ROOT)}", file=sys.stderr)
    venv.create(PEERS_ENV, clear=True, with_pip=True)
    pip = [PEERS_PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--requirement", str(LOCK)], check=True)
    if sys.version_info < (3, 12):  # venv's own setuptools has a .pth file that slows every start
        subprocess.run([*pip, "uninstall", "--yes", "setuptools"], check=True)
    note.write_text(made_of)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure mlctl beside its peers. Nothing is asserted.")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds and jobs, to see that it works; no results.json"
    )
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; repeatable; no results.json")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("bench: memory is read from /proc/self/status, which isn't here: run it on Linux")
    make_peers_env()
    versions = {"mlctl": version("mlctl")}
    versions |= installed(PEERS_ENV, "dagster-pipes", "psij-python", "submitit", "torchx")
    sizes = QUICK if options.quick else Settings()
    rows = {
        title: partial(benchmark, sizes)
        for name in options.only or BENCHMARKS
        for title, benchmark in BENCHMARKS[name].items()
    }
    run_all(RESULTS, versions, rows, whole=not (options.quick or options.only))


if __name__ == "__main__":
    main()
