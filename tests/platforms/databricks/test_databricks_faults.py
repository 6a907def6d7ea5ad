"""What goes wrong, and what is said of it: the setting to change, never two runs, never a hang."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks_harness import DatabricksHarness, execution, job_of, started
from databricks_standin import TOKEN, VOLUME, Standin
from running import ended

from mlctl import watch
from mlctl.backend import Backend, Settings
from mlctl.backends.databricks.workspace import Workspace
from mlctl.errors import InvalidConfig, MlctlError, RunNotFound, Unauthorized, Unavailable
from mlctl.runs import Key, State, Status


def test_deleted_run_is_not_found_and_its_key_says_so(made: Backend, standin: Standin) -> None:
    key = Key(f"k{time.time_ns()}", "runs")
    run = execution(made, job_of(), key).start().run
    ended(made, run)
    WorkspaceClient(host=standin.url, token=TOKEN).jobs.delete_run(int(run.scope.rpartition("/")[2]))
    assert isinstance(made.status([run])[run], RunNotFound)
    with pytest.raises(MlctlError, match="was deleted"):
        execution(made, job_of(), key).start()


def test_expired_token_is_unauthorized(made: Backend, standin: Standin) -> None:
    with standin.broken("expired"), pytest.raises(Unauthorized, match=r"targets\.dbx.*expired.*check host, profile"):
        started(made, job_of())


def test_internal_errors_are_unavailable(made: Backend, standin: Standin) -> None:
    with standin.broken("error"), pytest.raises(Unavailable, match="internal error"):
        started(made, job_of())


def test_slow_answers_are_waited_for(made: Backend, standin: Standin) -> None:
    with standin.broken(slow=1.0):
        run = started(made, job_of())
    assert ended(made, run).state is State.SUCCEEDED


def test_workspace_that_is_not_there(harness: DatabricksHarness) -> None:
    harness.values["host"] = "http://127.0.0.1:9"
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9.*is targets\.dbx\.host right"):
        started(harness.make(), job_of())
    assert time.monotonic() - began < 60


def test_volume_that_is_not_there(harness: DatabricksHarness) -> None:
    harness.values["root"] = "/Volumes/main/ml/nobodys/x"
    with pytest.raises(InvalidConfig, match=r"targets\.dbx\.root.*Volume 'main\.ml\.nobodys'"):
        started(harness.make(), job_of())


def test_run_of_another_workspace(made: Backend) -> None:
    run = started(made, job_of())
    ended(made, run)
    other = dataclasses.replace(run, account="adb-7.azuredatabricks.net")
    answer = made.status([other, run])
    assert isinstance(answer[other], Unavailable)
    assert "adb-7.azuredatabricks.net" in str(answer[other])
    assert isinstance(answer[run], Status)


def test_no_credentials(harness: DatabricksHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unauthorized, match="DATABRICKS_TOKEN"):
        started(harness.make(), job_of())


# many


def test_status_of_many_costs_pages(made: Backend, standin: Standin) -> None:
    with standin.broken(hold="QUEUED"):
        runs = [started(made, job_of()) for _ in range(30)]
        standin.calls.clear()
        answer = made.status(runs)
        calls = [call for call in standin.calls if "/jobs/" in call]
        assert all(isinstance(status, Status) and status.state is State.QUEUED for status in answer.values())
        assert calls == ["GET /api/2.2/jobs/runs/list"] * 2
        standin.calls.clear()
        made.status(runs[:1])
        assert standin.calls == ["GET /api/2.2/jobs/runs/get"]
        for run in runs:
            made.cancel(run)
    for run in runs:
        ended(made, run)
    standin.calls.clear()
    made.status(runs[:5])
    assert len(standin.calls) <= 6  # one look at what is active, and one call each


def test_run_that_may_not_be_seen_spoils_no_other(made: Backend, standin: Standin) -> None:
    with standin.broken(hold="QUEUED"):
        runs = [started(made, job_of()) for _ in range(3)]
        hidden = int(runs[1].scope.rpartition("/")[2])
        standin.hidden.add(hidden)
        try:
            answer = made.status(runs)
        finally:
            standin.hidden.discard(hidden)
        assert isinstance(answer[runs[1]], Unauthorized)
        assert "View permissions" in str(answer[runs[1]])
        assert [isinstance(answer[run], Status) for run in runs] == [True, False, True]
        for run in runs:
            made.cancel(run)
    for run in runs:
        ended(made, run)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"new_cluster": {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.huge"}}, r"new_cluster: .*i3\.huge"),
        ({"cluster": "0000-000000-nobodys"}, r"cluster: .*0000-000000-nobodys does not exist"),
        ({"environment_version": "99"}, r"environment_version: "),
        ({"root": "/Volumes/main/ml/nobodys/x"}, r"root: .*no such Volume"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_error_names_the_setting(
    harness: DatabricksHarness, standin: Standin, values: dict[str, Any], text: str
) -> None:
    harness.values |= values
    known = len(standin.runs)
    with pytest.raises((InvalidConfig, Unauthorized), match=rf"targets\.dbx.*{text}"):
        started(harness.make(), job_of())
    assert len(standin.runs) == known


def test_profile_beside_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The SDK takes what the environment says before a profile: the run would go to another workspace than the target's."""
    (tmp_path / "profiles").write_text("[prod]\nhost = https://prod.example.com\ntoken = prods\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "profiles"))
    target = Settings("dbx", {"root": VOLUME, "profile": "prod"}, tmp_path)
    monkeypatch.setenv("DATABRICKS_HOST", "https://dev.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "devs")
    with pytest.raises(
        InvalidConfig, match=r"targets\.dbx\.profile: the environment has DATABRICKS_HOST, DATABRICKS_TOKEN, "
    ):
        Workspace(target).account  # noqa: B018
    monkeypatch.delenv("DATABRICKS_HOST")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    assert Workspace(target).account == "prod.example.com"


def test_profile_that_is_not_there(harness: DatabricksHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    (tmp_path / "none").write_text("[DEFAULT]\n")
    del harness.values["host"]
    harness.values["profile"] = "nobody"
    with pytest.raises(Unauthorized, match=r"targets\.dbx: .*nobody profile.*set host and profile of the target"):
        started(harness.make(), job_of())


def test_token_of_somebody_else(harness: DatabricksHarness, made: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(made, job_of())
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-nobody")
    other = harness.make()
    assert isinstance(other.status([run])[run], Unauthorized)
    for ask in (other.cancel, other.result):
        with pytest.raises(Unauthorized, match=r"targets\.dbx: .*check host, profile and the token"):
            ask(run)
    assert ended(made, run).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("fault", "error"), [("throttled", Unavailable), ("error", Unavailable), ("forbidden", Unauthorized)]
)
def test_storm_ends_in_one_error_and_one_run(
    harness: DatabricksHarness, made: Backend, standin: Standin, fault: str, error: type[MlctlError]
) -> None:
    key, job = Key(f"k{time.time_ns()}", "runs"), job_of()
    with standin.broken(fault), pytest.raises(error):
        execution(made, job, key).start()
    run = execution(made, job, key).start().run
    began = time.monotonic()
    with standin.broken(fault):
        assert isinstance(made.status([run])[run], error)
        with contextlib.suppress(Unauthorized, Unavailable):
            assert watch.until_done(made, run, 1) is None
    assert time.monotonic() - began < 60
    assert execution(made, job, key).start().run == run
    assert harness.native(run).count == 1
    assert ended(made, run).state is State.SUCCEEDED


def test_answer_that_is_lost_is_no_second_run(harness: DatabricksHarness, made: Backend, standin: Standin) -> None:
    key, job = Key(f"k{time.time_ns()}", "runs"), job_of()
    with standin.broken("lost_response"), contextlib.suppress(Unavailable):
        execution(made, job, key).start()
    run = execution(made, job, key).start().run
    assert harness.native(run).count == 1
    assert ended(made, run).state is State.SUCCEEDED


def test_server_that_never_answers_is_given_up(harness: DatabricksHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlctl.backends.databricks import workspace

    monkeypatch.setattr(workspace, "WAIT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        harness.values["host"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"is targets\.dbx\.host right"):
            started(harness.make(), job_of())
    assert time.monotonic() - began < 90


def test_refused_run_spoils_no_other_wait(made: Backend, standin: Standin) -> None:
    with standin.broken(hold="QUEUED"):
        runs = [started(made, job_of()) for _ in range(3)]
        hidden = int(runs[1].scope.rpartition("/")[2])
        standin.hidden.add(hidden)
        try:
            poller = watch.Poller(made, 0.2)
            waits: list[Future[Any]] = [Future() for _ in runs]
            for run, wait in zip(runs, waits, strict=True):
                poller.watch(run, wait.set_result)
            assert isinstance(waits[1].result(60), Unauthorized)
        finally:
            standin.hidden.discard(hidden)
        assert not waits[0].done()
    assert [waits[number].result(120).state for number in (0, 2)] == [State.SUCCEEDED] * 2


def test_long_name_of_a_job_is_cut_to_what_databricks_takes(made: Backend) -> None:
    job = job_of(name="n" * 63)
    run = execution(made, job, Key(f"k{time.time_ns()}", job.name)).start().run
    assert len(run.name) <= 63
    assert ended(made, run).state is State.SUCCEEDED
