"""What goes wrong, and what is said of it: the setting to change, never two jobs, never a hang."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azureml_harness import STORE, settings
from azureml_standin import PAGE, SUBSCRIPTION, StandIn
from azureml_tls import serving

from mlctl import jobfile, lifecycle
from mlctl.backend import Settings
from mlctl.backends.azureml import AzureML
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunExists, RunNotFound, Unauthorized, Unavailable
from mlctl.policy import admit
from mlctl.runs import Key, Reason, Run, State, Status, Upload
from mlctl.stage import stage


@pytest.fixture
def idle(azure: pytest.MonkeyPatch, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A second server, on which jobs stay as they are."""
    made = StandIn(serving(authority))
    monkeypatch.setenv("MSI_ENDPOINT", f"{made.url}/msi")
    yield made
    made.close()


def target(standin: StandIn, home: Path, **changed: Any) -> AzureML:
    values = {name: value for name, value in {**settings(standin), **changed}.items() if value is not None}
    return AzureML(Settings("prod", values, home))


def execution(backend: AzureML, key: str = "one", **fields: Any) -> lifecycle.Execution:
    job = jobfile.load({"kind": "train", "name": "aml", "command": "true", **fields})
    return lifecycle.Execution(job, backend, backend.settings, Key(f"{backend.settings.home}{key}", "aml"))


WRONG: dict[str, tuple[type[MlctlError], str, dict[str, Any], dict[str, Any]]] = {
    "subscription": (
        InvalidConfig, "targets.prod.subscription: .*could not be found",
        {"subscription": "99999999-1111-2222-3333-444444444444"}, {},
    ),
    "resource group": (InvalidConfig, "targets.prod.resource_group: .*'nowhere'", {"resource_group": "nowhere"}, {}),
    "workspace": (InvalidConfig, "targets.prod.workspace: .*workspaces/nowhere'", {"workspace": "nowhere"}, {}),
    "datastore": (InvalidConfig, "targets.prod.datastore: there is no 'mine' in churn", {"datastore": "mine"}, {}),
    "datastore of another type": (InvalidConfig, "datastore: 'lake' is of the type AzureDataLake", {"datastore": "lake"}, {}),
    "container": (InvalidConfig, "datastore: 'nowhere' names the container 'gone'", {"datastore": "nowhere"}, {}),
    "compute": (InvalidConfig, "targets.prod.compute: there is no 'gpus' in churn", {"compute": "gpus"}, {}),
    "broken compute": (InvalidConfig, "targets.prod.compute: 'broken' is Failed", {"compute": "broken"}, {}),
    "size": (InvalidConfig, "targets.prod.instance_type: .*Standard_X99", {"instance_type": "Standard_X99"}, {}),
    "environment": (InvalidConfig, "targets.prod.environment: .*nowhere", {"environment": "azureml:nowhere:1"}, {}),
    "input": (InvalidJob, "inputs.data: .*nothing is there", {}, {"inputs": {"data": f"{STORE}/nothing/"}}),
    "cloud": (Unavailable, "resource_manager right", {"resource_manager": "https://127.0.0.1:1"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_error_names_the_setting(case: str, idle: StandIn, home: Path) -> None:
    error, text, changed, fields = WRONG[case]
    with pytest.raises(error, match=text):
        execution(target(idle, home, **changed), **fields).start()
    assert idle.jobs == {}


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("throttled", Unavailable, "request rate is too large; Azure is busy"),
        ("patience", Unavailable, "request rate is too large; Azure is busy"),
        ("internal", Unavailable, "internal server error occurred"),
        ("forbidden", Unauthorized, "credentials of targets.prod need that role"),
        ("tenant", Unauthorized, "wrong issuer.*log in again"),
        ("expired", Unauthorized, "log in again"),
    ],
)
def test_storm_ends_in_one_error_and_one_job(
    fault: str, error: type[MlctlError], text: str, idle: StandIn, home: Path
) -> None:
    backend = target(idle, home)
    with idle.fault(fault), pytest.raises(error, match=text):
        execution(backend).start()
    run = execution(backend).start().run
    with idle.fault(fault):
        assert isinstance(backend.status([run])[run], error)
        for ask in (backend.cancel, backend.logs, backend.result):
            with pytest.raises(error, match=text):
                ask(run)
    assert execution(backend).start().run == run
    assert len(idle.jobs) == 1


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("internal", Unavailable, "in mlstore.*: .*Azure is busy"),
        ("throttled", Unavailable, "in mlstore.*: .*Azure is busy"),
        ("forbidden", Unauthorized, "in mlstore.*: .*targets.prod need that role"),
    ],
)
def test_storm_of_the_datastore(fault: str, error: type[MlctlError], text: str, idle: StandIn, home: Path) -> None:
    with idle.fault(fault, "^[A-Z]+ blob"), pytest.raises(error, match=text):
        execution(target(idle, home)).start()
    assert idle.jobs == {}


def test_token_that_expired_is_fetched_anew_once(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    idle.expire()
    assert isinstance(backend.status([run])[run], Status)
    idle.expire()
    assert execution(backend, "two").start().made  # the datastore's token, too
    idle.expire()
    with pytest.raises(RunNotFound):
        backend._store.lines(f"{STORE}/nothing")
    assert len(idle.jobs) == 2


def test_clock_that_is_wrong(idle: StandIn, home: Path) -> None:
    idle.early = True
    with pytest.raises(Unauthorized, match=r"not yet valid.*set this machine's clock"):
        execution(target(idle, home)).start()


def test_no_credentials(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSI_SECRET", "of-another-machine")
    with pytest.raises(Unauthorized, match=r"targets.prod: credentials: .*az login"):
        execution(target(idle, home)).start()


def test_answers_that_are_lost_are_no_second_job(idle: StandIn, home: Path) -> None:
    with idle.fault("lost", "PUT arm .*/jobs/", times=1):
        assert execution(target(idle, home)).start().made  # the second try found the job, which is its own
    assert len(idle.jobs) == 1
    with idle.fault("lost", "PUT arm .*/jobs/"), pytest.raises(Unavailable):
        execution(target(idle, home), "two").start()
    assert not execution(target(idle, home), "two").start().made
    assert len(idle.jobs) == 2


def test_two_submits_at_once_make_one_job(idle: StandIn, home: Path, tmp_path: Path) -> None:
    """Both see that the name is free, and then both ask for it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("print(1)\n")
    both, outcomes = threading.Barrier(2, timeout=60), []

    def submit(number: int) -> None:
        backend = target(idle, home)
        whole = execution(backend, code=str(tmp_path / "code"))
        job, facts, stamp = whole.prepare()
        plan = backend.plan(job, facts, whole.key.name(0, backend.name_limit))
        arm = backend._service.arm

        def together(method: str, path: str, *rest: Any, **query: Any) -> Any:
            if method == "PUT" and "/jobs/" in path:
                both.wait()
            return arm(method, path, *rest, **query)

        backend._service.arm = together  # type: ignore[method-assign]
        stage(backend.put, plan.uploads)
        try:
            outcomes.append(backend.submit(admit(job, plan), dataclasses.replace(stamp, nonce=f"nonce-{number}")))
        except RunExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Run", "RunExists"]
    assert len(idle.jobs) == 1
    made = next(iter(idle.jobs.values())).properties
    kept = "".join(text for name, text in sorted(made["properties"].items()))
    assert f'"nonce":"{made["environmentVariables"]["MLCTL_NONCE"]}"' in kept  # the loser changed nothing


def test_slow_answers_are_waited_for(idle: StandIn, home: Path) -> None:
    with idle.fault("slow", "PUT arm", times=2):
        assert execution(target(idle, home)).start().made
    assert len(idle.jobs) == 1


def test_job_deleted_behind_our_back(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run, other = (execution(backend, key).start().run for key in ("one", "two"))
    del idle.jobs[run.name]
    answer = backend.status([run, other])
    assert isinstance(answer[run], RunNotFound)
    assert isinstance(answer[other], Status)
    for ask in (backend.logs, backend.result, backend.cancel):
        with pytest.raises(RunNotFound, match=run.name):
            ask(run)


def test_attempt_deleted_hides_none_after_it(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    whole = execution(backend)
    first = whole.start().run
    idle.jobs[first.name].end("Failed", "exited with status code 1")
    second = lifecycle.Execution(whole.job, backend, backend.settings, whole.key, again=True).start().run
    assert second.attempt == 1
    del idle.jobs[first.name]
    assert [found.run for found in backend.find(whole.key)] == [second]


def test_job_that_is_none_of_ours(idle: StandIn, home: Path) -> None:
    whole = execution(target(idle, home))
    run = whole.start().run
    idle.jobs[run.name].properties["properties"] = {"mine": "yes"}
    with pytest.raises(InvalidConfig, match="mlctl did not start; choose another key"):
        execution(target(idle, home)).start()


def test_run_of_another_workspace(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    other = Run("azureml", SUBSCRIPTION, "ml/other", run.name)
    answer = backend.status([other, run])
    assert isinstance(answer[run], Status)
    assert isinstance(answer[other], Unavailable)
    assert "lives in the workspace ml/other" in str(answer[other])
    with pytest.raises(Unavailable, match="use a target of that workspace"):
        backend.cancel(other)


ENDS: dict[str, tuple[tuple[str, str, str], State, Reason | None, int | None]] = {
    "exit code": (("Failed", "User process 'sh' exited with status code 7. See", "UserError"), State.FAILED, Reason.ERROR, 7),
    "exit code in json": (
        ("Failed", '{"code":"ExecutionFailed","error_details":[{"key":"exit_codes","value":"9"}]}', "UserError"),
        State.FAILED, Reason.ERROR, 9,
    ),
    "killed": (("Failed", "User process 'sh' exited with status code 137.", "UserError"), State.FAILED, Reason.OOM, 137),
    "words of the job's": (
        ("Failed", "exited with status code 1. Error: quota exceeded, timed out", "UserError"), State.FAILED, Reason.ERROR, 1,
    ),
    "image": (("Failed", "AzureMLCompute job failed. Image build failed", "UserError"), State.FAILED, Reason.IMAGE, None),
    "quota": (("Failed", "The specified subscription has not enough quota", "UserError"), State.FAILED, Reason.QUOTA, None),
    "preempted": (("Failed", "Node was preempted", "ServiceError"), State.FAILED, Reason.PREEMPTED, None),
    "capacity": (("Failed", "AllocationFailed: no capacity", "ServiceError"), State.FAILED, Reason.NO_CAPACITY, None),
    "service": (("Failed", "An unexpected error", "ServiceError"), State.FAILED, Reason.INFRA, None),
    "user": (("Failed", "Something is wrong with the input", "UserError"), State.FAILED, Reason.ERROR, None),
    "done": (("Completed", "", ""), State.SUCCEEDED, None, None),
    "cancelled": (("Canceled", "", ""), State.CANCELLED, Reason.CANCELLED, None),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_how_a_run_ends(case: str, idle: StandIn, home: Path) -> None:
    outcome, state, reason, code = ENDS[case]
    idle.outcomes.append(("aml", outcome))
    backend = target(idle, home)
    run = execution(backend).start().run
    status = backend.status([run])[run]
    assert isinstance(status, Status), status
    assert (status.state, status.reason, status.exit_code) == (state, reason, code)
    assert status.link == f"https://ml.azure.com/runs/{run.name}"
    if state is State.FAILED:
        assert status.started
        assert status.finished


def test_end_at_the_timeout_is_one(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend, timeout="1m").start().run
    job = idle.jobs[run.name]
    job.end("Canceled")
    assert job.ended
    job.started = job.ended - timedelta(seconds=61)
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert (status.state, status.reason) == (State.FAILED, Reason.TIMEOUT)
    job.started = job.ended - timedelta(seconds=30)
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert status.state is State.CANCELLED


@pytest.mark.parametrize("native", ["Unknown", "Hibernating", ""])
def test_unknown_state_is_an_error(native: str, idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    runs = [execution(backend, key).start().run for key in ("one", "two")]
    idle.jobs[runs[0].name].status = native
    answer = backend.status(runs)
    assert isinstance(answer[runs[0]], MlctlError)
    assert f"Azure ML says {native or 'nothing'}" in str(answer[runs[0]])
    assert isinstance(answer[runs[1]], Status)


def test_every_state_of_the_sdk_is_known_but_unknown() -> None:
    import azureml_model as model

    from mlctl.backends.azureml.states import LIVE, TERMINAL

    assert {each.value for each in model.models.JobStatus} - {"Unknown", "Scheduled"} == LIVE.keys() | TERMINAL.keys()


def test_many_runs_take_pages(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    first = execution(backend).start().run
    old = [idle.jobs[first.name]]
    for number in range(1, 100):
        name = f"{first.name.rpartition('-')[0]}-{number}"
        idle.jobs[name] = dataclasses.replace(old[0], name=name, number=number, status="Running")
    runs = [dataclasses.replace(first, name=name) for name in idle.jobs]
    idle.calls.clear()
    answer = backend.status(runs)
    assert {type(each) for each in answer.values()} == {Status}
    assert list(answer.keys() - set(runs)) == []
    assert idle.calls == {"GET arm": -(-100 // PAGE)}


def test_poll_of_a_busy_azure_ends_soon_and_one_bad_run_spoils_no_other(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    runs = [execution(backend, f"{number}").start().run for number in range(6)]
    with idle.fault("internal", f"GET arm .*/jobs/{runs[0].name}"), idle.fault("forbidden", "GET arm .*/jobs$"):
        answer = backend.status(runs)
    assert isinstance(answer[runs[0]], Unavailable)
    assert {type(answer[run]) for run in runs[1:]} == {Status}
    with idle.fault("internal", "GET arm .*/jobs/"), idle.fault("forbidden", "GET arm .*/jobs$"):
        idle.calls.clear()
        answer = backend.status(runs)
    assert {type(each) for each in answer.values()} == {Unavailable}
    assert idle.calls["GET arm"] == 1 + 3 * 3  # the list; three runs, each tried three times


def test_body_that_the_model_does_not_have_is_refused(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    with pytest.raises(InvalidConfig, match="unheardOf: no such field"):
        backend._service.arm("PUT", f"{backend._at.arm}/jobs/x", {"properties": {"jobType": "Command", "unheardOf": 1}})
    assert idle.jobs == {}


def test_log_is_read_in_parts_and_of_several_nodes(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    job = idle.jobs[run.name]
    job.begin()
    assert backend.logs(run).lines == ()
    job.logs["user_logs/std_log.txt"] = b"one\ntwo\nhalf"
    job.logs["system_logs/x.txt"] = b"not the job's\n"
    part = backend.logs(run)
    assert part.lines == ("one", "two")
    job.logs["user_logs/std_log.txt"] += b" a line\nlast"
    part = backend.logs(run, part.cursor)
    assert part.lines == ("half a line",)
    assert "sig=" not in part.cursor
    job.end("Completed")
    part = backend.logs(run, part.cursor)
    assert part.lines == ("last",)
    assert backend.logs(run, part.cursor).lines == ()
    job.logs = {f"user_logs/std_log_process_{node}.txt": b"up\n" for node in range(2)}
    assert backend.logs(run).lines == ("[std_log_process_0] up", "[std_log_process_1] up")
    job.logs = {"user_logs/std_log.txt": b"x" * (3 << 20)}
    assert sum(len(line) for logs in lifecycle.lines(backend, run) for line in logs.lines) == 3 << 20
    with pytest.raises(InvalidConfig, match="no cursor"):
        backend.logs(run, "[")


def test_large_file_is_whole_or_not_there(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlctl.backends.azureml.store._PART", 1 << 20)
    source = home / "large"
    source.write_bytes(bytes(range(256)) * 4096 * 3)
    backend, address = target(idle, home), f"{STORE}/mlctl/large"
    upload = Upload(str(source), hashlib.sha256(source.read_bytes()).hexdigest(), address)
    with idle.fault("forbidden", "PUT blob", times=1), pytest.raises(Unauthorized):
        backend.put(upload)
    assert idle.blobs.files == {}
    for _ in range(2):
        backend.put(upload)
    assert idle.blobs.files["mlctl/large"] == source.read_bytes()
    assert idle.blobs.writes == ["mlctl/large"]
    with pytest.raises(Unavailable, match="missing: No such file"):
        backend.put(Upload(str(home / "missing"), "0", f"{STORE}/mlctl/missing"))


DOCTOR: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "credentials": ("", {}, "credentials", "az login"),
    "workspace": ("", {"workspace": "nowhere"}, "workspace", "targets.prod.subscription, resource_group and workspace"),
    "compute": ("", {"compute": "gpus"}, "compute", "targets.prod.compute"),
    "size": ("", {"instance_type": "Standard_F8s_v2"}, "compute", "instance_type"),
    "datastore": ("", {"datastore": "mine"}, "datastore", "targets.prod.datastore"),
    "container": ("^[A-Z]+ blob", {}, "datastore", "Storage Blob Data Contributor"),
    "jobs": ("arm .*/jobs", {}, "jobs", "AzureML Data Scientist"),
    "quota": ("", {"compute": "cpus"}, "quota", "Quotas"),
}


@pytest.mark.parametrize("case", DOCTOR)
def test_doctor_says_how_to_mend(case: str, idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, changed, what, mend = DOCTOR[case]
    if case == "credentials":
        monkeypatch.setenv("MSI_SECRET", "of-another-machine")
    if case == "quota":
        idle.usages["standardDSv2Family"] = (0, 0)
    with idle.fault("forbidden", broken or "nothing"):
        findings = list(target(idle, home, **changed).check())
    bad = next(finding for finding in findings if not finding.ok)
    assert bad.what == what
    assert mend in bad.mend
    assert bad.text


def test_doctor_is_content(idle: StandIn, home: Path) -> None:
    for changed in ({}, {"compute": "cpus"}):
        findings = list(target(idle, home, **changed).check())
        assert [finding.text for finding in findings if not finding.ok] == []
        assert [finding.what for finding in findings] == [
            "credentials",
            "workspace",
            "compute",
            "datastore",
            "jobs",
            "quota",
        ]
    assert idle.blobs.files == {}


def test_importing_the_platform_imports_no_sdk() -> None:
    code = "import sys, mlctl.backends.azureml; print([name for name in sys.modules if name.startswith('azure.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_that_grants_access_is_said(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    idle.jobs[run.name].logs["user_logs/std_log.txt"] = b"x\n"
    for fault in ("forbidden", "internal", "lost"):
        with idle.fault(fault, "GET logs"), pytest.raises(MlctlError) as caught:
            backend.logs(run)
        assert "grants-access" not in str(caught.value)
        assert "Bearer" not in str(caught.value)


def test_durations() -> None:
    from mlctl.backends.azureml.states import seconds

    assert [seconds(text) for text in ("PT90S", "PT1H30M", "P1DT2S", "x", None)] == [90, 5400, 86402, 0, 0]
