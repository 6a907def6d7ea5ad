"""What `mlctl gc` removes from a Volume, and what it never does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from databricks_harness import DatabricksHarness, execution, job_of
from databricks_standin import Standin
from running import ended, until

from mlctl.backend import Backend
from mlctl.errors import MlctlError
from mlctl.runs import Key, Run

DAY = 86400


def held(harness: DatabricksHarness) -> set[str]:
    """The files below root."""
    root = harness.standin.disk(str(harness.values["root"]))
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def aged(harness: DatabricksHarness, days: int = 100) -> None:
    root = harness.standin.disk(str(harness.values["root"]))
    for path in root.rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def started(made: Backend, folder: Path, key: str, script: str = "true") -> Run:
    (folder / key).mkdir()
    (folder / key / "main.py").write_text(f"print({key!r})\n")
    (folder / f"{key}.csv").write_text(key)
    script = f'echo up; echo m > "$MLCTL_OUTPUT_MODEL/m"; echo c > "$MLCTL_CHECKPOINT_DIR/c"; {script}'
    job = job_of(
        {"shell": script}, code=str(folder / key), inputs={"data": str(folder / f"{key}.csv")}, outputs={"model": {}}
    )
    return execution(made, job, Key(f"{folder}{key}", "runs")).start().run


def record(standin: Standin, run: Run) -> dict[str, object]:
    return standin.runs[int(run.scope.rpartition("/")[2])]


def test_only_what_is_old_and_used_by_no_run_goes(
    made: Backend, harness: DatabricksHarness, standin: Standin, tmp_path: Path
) -> None:
    runs, seen = {}, {}
    for key in ("old", "forgotten", "recent", "live", "unnoted"):
        before = held(harness)
        runs[key] = started(made, tmp_path, key, "sleep 600" if key in ("live", "unnoted") else "true")
        if key in ("live", "unnoted"):
            until(lambda run=runs[key]: bool(made.logs(run).lines), "it is up")
        else:
            ended(made, runs[key])
        seen[key] = held(harness) - before
    for key in ("old", "forgotten"):
        record(standin, runs[key])["end_time"] = int((time.time() - 50 * DAY) * 1000)
    del standin.runs[int(runs["forgotten"].scope.rpartition("/")[2])]
    stem, _, number = runs["unnoted"].name.rpartition("-")
    [note] = [name for name in seen["unnoted"] if name.startswith(f"runs/{stem}/{number}.")]
    (standin.disk(str(harness.values["root"])) / note).unlink()
    aged(harness)
    everything = held(harness)
    dry = list(made.prune(time.time(), True))
    assert held(harness) >= everything
    assert list(made.prune(time.time(), False)) == dry
    gone = everything - held(harness)
    sorts = {key: {name.split("/")[0] for name in gone & seen[key]} for key in seen}
    assert sorts["recent"] == sorts["live"] == sorts["unnoted"] == set()
    assert sorts["old"] == {"packages", "data", "runs"}
    assert sorts["forgotten"] == {"packages", "data", "runs", "jobs"}
    left = {key: {name.rpartition("/")[2] for name in seen[key] & held(harness)} for key in ("old", "forgotten")}
    assert left["forgotten"] == {"m"}
    assert {"m", "exit.json"} <= left["old"]
    assert not any("/log/" in name or "/checkpoints/" in name for name in seen["old"] & held(harness))
    assert made.result(runs["old"]).outputs.keys() == {"model"}
    assert [found.run for found in made.find(Key(f"{tmp_path}old", "runs"))] == [runs["old"]]
    for key in ("live", "unnoted"):
        made.cancel(runs[key])
        ended(made, runs[key])


def test_young_uploads_stay_and_a_submit_makes_them_young(
    made: Backend, harness: DatabricksHarness, standin: Standin, tmp_path: Path
) -> None:
    run = started(made, tmp_path, "one")
    ended(made, run)
    record(standin, run)["end_time"] = int((time.time() - 50 * DAY) * 1000)
    aged(harness, 10)
    assert list(made.prune(time.time(), True)) == []
    aged(harness)
    assert list(made.prune(time.time(), True)) != []
    again = execution(made, job_of(["true"], code=str(tmp_path / "one")), Key(f"{tmp_path}again", "runs")).start().run
    ended(made, again)
    record(standin, again)["end_time"] = int((time.time() - 50 * DAY) * 1000)  # as if it were not submitted yet
    assert not any("/packages/" in path or "/launcher/" in path for path in made.prune(time.time(), False))


@pytest.mark.parametrize("fault", ["throttled", "forbidden"])
def test_nothing_goes_where_runs_cannot_be_seen(
    made: Backend, harness: DatabricksHarness, standin: Standin, tmp_path: Path, fault: str
) -> None:
    run = started(made, tmp_path, "one")
    ended(made, run)
    standin.hidden.add(int(run.scope.rpartition("/")[2]))
    aged(harness)
    everything = held(harness)
    try:
        with pytest.raises(MlctlError):
            list(made.prune(time.time(), False))
    finally:
        standin.hidden.clear()
    with standin.broken(fault), pytest.raises(MlctlError):
        list(made.prune(time.time(), False))
    assert held(harness) == everything
