"""Measuring by turns, medians, ratios, and how they are shown and kept: what the benchmarks share.

A figure's name ends in its unit. Nothing is asserted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

Sample = dict[str, float]  # one measurement: figure -> value; a figure's name ends in its unit
Measure = Callable[[], Iterable[Sample]]
Table = dict[str, dict[str, dict[str, float]]]  # subject -> figure -> min, median, max, n


def take_turns(rounds: int, subjects: Mapping[str, Measure], warm_up: int = 1) -> Table:
    """Measure each subject in turn, `rounds` times over, after `warm_up` rounds that aren't counted."""
    values: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in subjects}
    for number in range(-warm_up, rounds):
        for name, measure in subjects.items():
            for figure, value in (pair for sample in measure() for pair in sample.items()):
                if number >= 0:
                    values[name][figure].append(value)
    return {name: {figure: summary(v) for figure, v in figures.items()} for name, figures in values.items()}


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = (round(v, 3) for v in (min(values), statistics.median(values), max(values)))
    return {"min": low, "median": median, "max": high, "n": len(values)}


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlctl-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def about(versions: Mapping[str, str]) -> dict[str, object]:
    """When, on what machine, and which versions."""
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    machine: dict[str, object] = {
        "cpu": next(models, "?").split(":")[-1].strip(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "machine": machine, "versions": dict(versions)}


def installed(environment: Path, *names: str) -> dict[str, str]:
    """The version of each that an environment has."""
    found = {}
    for one in distributions(path=[str(path) for path in environment.glob("lib/python*/site-packages")]):
        found[one.metadata["Name"].lower()] = one.version
    return {name: found[name] for name in names}


def ratios(table: Table) -> dict[str, dict[str, float]]:
    """Each median as so many times that of the table's first subject."""
    first = {figure: v["median"] for figure, v in next(iter(table.values())).items() if v["median"]}
    return {
        name: {figure: round(v["median"] / first[figure], 3) for figure, v in figures.items() if figure in first}
        for name, figures in table.items()
    }


def show(title: str, table: Table) -> None:
    """Print a table: in each cell the median, how many times the first row's it is, and [min, max]."""
    figures = list(dict.fromkeys(figure for row in table.values() for figure in row))
    times = ratios(table)

    def cell(name: str, figure: str) -> str:
        if not (v := table[name].get(figure)):
            return "-"
        ratio = f" {times[name][figure]:.2f}x" if figure in times[name] else ""
        return f"{v['median']:.4g}{ratio} [{v['min']:.4g}, {v['max']:.4g}]"

    rows = [[title, *figures], *([name, *(cell(name, figure) for figure in figures)] for name in table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    print(flush=True)


def report(results: Mapping[str, object], tables: Mapping[str, Table]) -> dict[str, object]:
    """What a file of results holds: the facts, the figures, the ratios."""
    return {**results, "figures": tables, "ratios": {title: ratios(table) for title, table in tables.items()}}


def run_all(
    path: Path, versions: Mapping[str, str], benchmarks: Mapping[str, Callable[[], Table]], whole: bool
) -> None:
    """Runs each benchmark, shows its table as it comes, and writes `path` where all were run in full."""
    results = about(versions)
    print(json.dumps(results), "\nmedian, times the first row's [min, max]\n", flush=True)
    tables = {}
    for title, benchmark in benchmarks.items():
        tables[title] = benchmark()
        show(title, tables[title])
    if whole:
        keep(path, report(results, tables))
    else:
        print(f"{path.relative_to(ROOT)} is left as it was: it holds a whole run, without --quick or --only")


def keep(path: Path, results: Mapping[str, object]) -> None:
    """Writes a file of results, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=2) + "\n")
    unfinished.replace(path)
    print(f"written: {path.relative_to(ROOT)}")
