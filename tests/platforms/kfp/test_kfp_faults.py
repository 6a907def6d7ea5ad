"""What goes wrong, and what is said of it: the setting to change, never two jobs that count, never a hang."""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kfp_platform_harness import settings
from kfp_standin import StandIn

from mlctl import jobfile, lifecycle
from mlctl.backend import Settings
from mlctl.backends.kfp import KFP
from mlctl.errors import InvalidConfig, MlctlError, RunExists, RunNotFound, Unauthorized, Unavailable
from mlctl.policy import admit
from mlctl.runs import Key, Reason, Run, State, Status


def target(standin: StandIn, home: Path, **changed: Any) -> KFP:
    values = {name: value for name, value in {**settings(standin), **changed}.items() if value is not None}
    return KFP(Settings("prod", values, home))


def execution(backend: KFP, key: str = "one", **fields: Any) -> lifecycle.Execution:
    job = jobfile.load({"kind": "train", "name": "churn", "command": "true", **fields})
    return lifecycle.Execution(job, backend, backend.settings, Key(f"{backend.settings.home}{key}", "churn"))


def submitted(backend: KFP, nonce: str, key: str = "one") -> Run:
    """By the backend alone, as two callers do that both decided to submit."""
    whole = execution(backend, key)
    job, facts, stamp = whole.prepare()
    plan = backend.plan(job, facts, whole.key.name(0, backend.name_limit))
    return backend.submit(admit(job, plan), dataclasses.replace(stamp, nonce=nonce))


WRONG: dict[str, tuple[type[MlctlError], str, dict[str, Any]]] = {
    "host": (Unavailable, "is host right, and reached from here", {"host": "http://127.0.0.1:1"}),
    "token": (Unauthorized, "targets.prod.token is refused; get a new one", {"token": "env:ANOTHER"}),
    "no token": (Unauthorized, "targets.prod.token is not set; set it", {"token": None}),
    "namespace": (InvalidConfig, "targets.prod.namespace: .*cannot have a namespace", {"namespace": "growth"}),
    "service account": (InvalidConfig, "targets.prod.service_account: .*nobody does not exist", {"service_account": "nobody"}),
    "token's variable": (
        InvalidConfig, "^targets.prod.token: comes from the environment variable NOWHERE, which isn't set$",
        {"token": "env:NOWHERE"},
    ),
    "token's file": (
        InvalidConfig, "^targets.prod.token: comes from /nowhere: No such file or directory$", {"token": "file:/nowhere"},
    ),
    "certificates": (InvalidConfig, "targets.prod.ca: /nowhere: no such file", {"ca": "/nowhere"}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_error_names_the_setting(case: str, idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOTHER", "of-another")
    error, text, changed = WRONG[case]
    with pytest.raises(error, match=text):
        execution(target(idle, home, **changed)).start()
    assert idle.runs == {}


@pytest.mark.parametrize("authorities", [None, __file__])
def test_server_whose_certificate_is_not_trusted(authorities: str | None, idle: StandIn, home: Path) -> None:
    """What speaks no TLS at all fails as what does it by unknown certificates; so does a `ca` that is none."""
    backend = target(idle, home, host=idle.url.replace("http:", "https:"), ca=authorities)
    with pytest.raises(
        Unavailable, match=r"\[(SSL|X509): .*; is host right, and targets\.prod\.ca what it is signed by\?$"
    ):
        execution(backend).start()


STORMS: dict[str, tuple[type[MlctlError], str]] = {
    "throttled": (Unavailable, "429: too many requests; try again later"),
    "internal": (Unavailable, "500: Internal Server Error.*try again later"),
    "busy": (Unavailable, "503: upstream connect error.*try again later"),
    "forbidden": (Unauthorized, "the token of targets.prod needs the right to runs"),
    "login": (
        Unauthorized,
        "leads to https://login.example.com/; set targets.prod.token where that is a login, else targets.prod.host",
    ),
    "page": (InvalidConfig, "targets.prod.host: .*is none of KFP's: .*Log in.*name the address of the API"),
    "lost": (Unavailable, "is host right, and reached from here"),
    "conflict": (Unavailable, "409: Operation cannot be fulfilled.*; try again$"),
    "gateway": (Unavailable, "502: 502 Bad Gateway; try again later$"),
    "foreign words": (Unavailable, "503: Dienst nicht verf.gbar; try again later$"),
    "elsewhere": (Unavailable, "404: 404 page not found; is host the address of the API"),
    "void": (Unavailable, "the answer is no JSON: ''; try again later$"),
    "half": (Unavailable, "the answer is no JSON: '{.*; try again later$"),
    "other": (InvalidConfig, "targets.prod.host: .*is none of KFP's: {'status': 'ok'}; name the address of the API"),
    "list": (InvalidConfig, "targets.prod.host: .*is none of KFP's: "),
}


@pytest.mark.parametrize("fault", STORMS)
def test_storm_ends_in_one_error_and_one_run(fault: str, idle: StandIn, home: Path) -> None:
    error, text = STORMS[fault]
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
    assert len(idle.runs) == 1


def test_answer_that_is_lost_is_no_second_run(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    with idle.fault("lost", "POST /runs$", times=1):
        assert execution(backend).start().made  # it looked, and the run is its own
    with idle.fault("lost", "POST /runs$"), idle.fault("busy", "GET /runs$", times=0):
        assert execution(backend, "two").start().made
    assert len(idle.runs) == 2
    with idle.fault("busy", "POST /runs$"), pytest.raises(Unavailable, match="503"):
        execution(backend, "three").start()
    assert len(idle.runs) == 2


def test_page_of_a_proxy_is_no_word_of_kfps_that_there_is_no_run(idle: StandIn, home: Path) -> None:
    run = execution(target(idle, home)).start().run
    for fault in ("elsewhere", "void"):
        with idle.fault(fault, "GET /runs$"), pytest.raises(Unavailable):
            execution(target(idle, home)).start()
    assert [each.name for each in idle.runs.values()] == [run.name]


def test_answer_of_which_half_arrives_is_no_second_run(idle: StandIn, home: Path) -> None:
    with idle.fault("half", "POST /runs$", times=1):
        assert execution(target(idle, home)).start().made
    with idle.fault("conflict", "POST /runs$"), pytest.raises(Unavailable, match="409"):
        execution(target(idle, home), "two").start()
    assert len(idle.runs) == 1


@pytest.mark.parametrize("fault", ["unknown", "other", "list"])
def test_server_that_has_another_api(fault: str, idle: StandIn, home: Path) -> None:
    """As one of KFP's first version, whose answer to what it doesn't know is JSON, too."""
    for call in ("GET /experiments", "POST /experiments"):
        with idle.fault(fault, call), pytest.raises(InvalidConfig, match=r"^targets\.prod\.host: "):
            execution(target(idle, home)).start()
    assert idle.runs == idle.experiments == {}


def test_lookup_that_fails_after_the_run_was_made(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    whole = execution(backend)
    call = backend._service.call

    def failing(method: str, path: str, *rest: Any, **query: Any) -> Any:
        answer = call(method, path, *rest, **query)
        if method == "POST" and path == "runs":
            idle._faults.append(["busy", "GET /runs$", 1])
        return answer

    backend._service.call = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        whole.start()
    again = execution(target(idle, home)).start()
    assert not again.made
    assert len(idle.runs) == 1


def test_slow_answers_are_waited_for(idle: StandIn, home: Path) -> None:
    with idle.fault("slow", "POST", times=2):
        assert execution(target(idle, home)).start().made
    assert len(idle.runs) == 1


def test_token_that_was_renewed_is_read_anew(idle: StandIn, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{idle.token}\n")
    backend = target(idle, home, token=f"file:{file}")
    run = execution(backend).start().run
    idle.token = "of-tomorrow"
    assert isinstance(backend.status([run])[run], Unauthorized)
    file.write_text("of-tomorrow\n")
    assert isinstance(backend.status([run])[run], Status)


def test_two_submits_at_once_leave_one_run(idle: StandIn, home: Path) -> None:
    """Both see that the name is free, and then both make it."""
    both, outcomes = threading.Barrier(2, timeout=60), []

    def submit(number: int) -> None:
        backend = target(idle, home)
        call = backend._service.call

        def together(method: str, path: str, *rest: Any, **query: Any) -> Any:
            if (method, path) == ("POST", "runs"):
                both.wait()
            answer = call(method, path, *rest, **query)
            if (method, path) == ("POST", "runs"):
                both.wait()
            return answer

        backend._service.call = together  # type: ignore[method-assign]
        try:
            outcomes.append(submitted(backend, f"nonce-{number}"))
        except RunExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Run", "RunExists"]
    assert sorted(run.state for run in idle.runs.values()) == ["FAILED", "PENDING"]
    backend = target(idle, home)
    (found,) = backend.find(execution(backend).key)
    assert found.status.state is State.QUEUED


@pytest.mark.parametrize("who", ["submit", "status", "cancel"])
def test_who_died_between_making_a_run_and_looking_is_cleaned_up_after(who: str, idle: StandIn, home: Path) -> None:
    """The younger of two stays where its maker dies; the next who looks ends it, and the older one counts for all."""
    backend = target(idle, home)
    run = submitted(backend, "first")
    (first,) = idle.runs.values()
    record = first.body["runtime_config"]["parameters"]["mlctl"].replace("first", "other")
    twin = {**first.body, "runtime_config": {"parameters": {"mlctl": record}}}
    idle._make_run(twin)
    first.created = "2026-01-01T00:00:00Z"
    assert [run.state for run in idle.runs.values()] == ["PENDING", "PENDING"]
    assert [found.stamp.nonce for found in backend.find(execution(backend).key)] == ["first"]
    if who == "submit":
        with pytest.raises(RunExists):
            submitted(backend, "third")
    elif who == "status":
        assert backend.status([run])[run].state is State.QUEUED  # type: ignore[union-attr]
    else:
        backend.cancel(run)
    wanted = "FAILED" if who == "cancel" else "PENDING"
    assert [run.state for run in idle.runs.values()] == [wanted, "FAILED"]


def test_run_of_a_stranger_is_not_adopted(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    submitted(backend, "mine")
    (run,) = idle.runs.values()
    run.body["runtime_config"] = {"parameters": {"mlctl": "{}"}}
    with pytest.raises(InvalidConfig, match="mlctl did not start; choose another key"):
        execution(backend).start()


def test_run_deleted_behind_our_back(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run, other = (execution(backend, key).start().run for key in ("one", "two"))
    del idle.runs[idle.named(run.name)[0].run_id]
    answer = backend.status([run, other])
    assert isinstance(answer[run], RunNotFound)
    assert isinstance(answer[other], Status)
    for ask in (backend.logs, backend.result, backend.cancel):
        with pytest.raises(RunNotFound, match="may have been deleted"):
            ask(run)


def test_experiment_deleted_behind_our_back(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    idle.experiments.clear()
    assert isinstance(backend.status([run])[run], RunNotFound)
    assert backend.find(execution(backend).key) == []
    assert execution(backend, "two").start().made  # it is made anew
    backend._known = "00000000-0000-0000-0000-000000000000"
    assert submitted(backend, "late", "three").name
    assert len(idle.experiments) == 1


def test_run_of_another_server_is_not_looked_for_here(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    for other in (dataclasses.replace(run, account="dev"), dataclasses.replace(run, scope="growth/mlctl")):
        assert isinstance(backend.status([other])[other], Unavailable)
        with pytest.raises(Unavailable, match=r"lives on the server .*targets\.prod is test, mlctl"):
            backend.logs(other)


def test_many_runs_are_asked_for_in_few_calls(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    names = [f"{'c' * 42}-{'a' * 16}-{number:03}" for number in range(249)]  # as long as names are
    for name in names:
        idle._make_run({**made.body, "display_name": name})
    idle.calls.clear()
    runs = [run, *(dataclasses.replace(run, name=name) for name in names)]
    answer = backend.status(runs)
    assert [answer[each].state for each in runs] == [State.QUEUED] * 250  # type: ignore[union-attr]
    assert idle.calls == {"GET /runs": 5}


@pytest.mark.parametrize("native", ["SKIPPED", "ASLEEP"])
def test_unknown_state_is_an_error_and_no_guess(
    native: str, idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = target(idle, home)
    run, other = (execution(backend, key).start().run for key in ("one", "two"))
    monkeypatch.setattr("kfp_model.problems", lambda *words: [])
    idle.named(run.name)[0].state = native
    answer = backend.status([run, other])
    assert native in str(answer[run])
    assert isinstance(answer[other], Status)


ENDS: dict[str, tuple[str, str, bool, Reason, int | None, str]] = {
    "error": ("x\nmlctl.end 3 error exit code 3\n", "Error (exit code 3)", False, Reason.ERROR, 3, "exit code 3"),
    "oom": ("mlctl.end 137 oom out of memory\n", "", False, Reason.OOM, 137, "out of memory"),
    "timeout": ("mlctl.end 143 timeout ended after its timeout\n", "", False, Reason.TIMEOUT, 143, "timeout"),
    "requirements": ("mlctl.end 1 image mlctl: the requirements\n", "", False, Reason.IMAGE, None, "requirements"),
    "output": ("mlctl.end 1 infra mlctl: an output could not be saved: m\n", "", False, Reason.INFRA, None, "saved: m"),
    "told twice": ("mlctl.end 0 ok \nmlctl.end 4 error exit code 4\n", "", False, Reason.ERROR, 4, "exit code 4"),
    "after the job": ("mlctl.end 0 ok \n", "", False, Reason.INFRA, 0, "what KFP does after it failed"),
    "image": ("", 'Back-off pulling image "nope": ErrImagePull', True, Reason.IMAGE, None, "ErrImagePull"),
    "evicted": ("step 1\n", "The node was low on resource: memory. Evicted", False, Reason.PREEMPTED, None, "Evicted"),
    "quota": ("", "pods is forbidden: exceeded quota: compute", True, Reason.QUOTA, None, "exceeded quota"),
    "drained": ("mlctl.end 143 stopped told to stop\n", "Evicted: node drained", False, Reason.PREEMPTED, 143, "drained"),
    "deleted by hand": ("", "pod deleted", True, Reason.INFRA, None, "pod deleted"),
    "killed": ("step 1\n", "", False, Reason.INFRA, None, "its pod ended before the job did"),
    "no log": ("", "", True, Reason.ERROR, None, "no log of it that would tell why"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_why_a_run_failed(case: str, idle: StandIn, home: Path) -> None:
    log, error, gone, reason, code, text = ENDS[case]
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    made.pod, made.log_gone = "x1-system-container-impl-7", gone
    made.log[:] = log.encode()
    made.end("FAILED", error)
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, reason, code)
    assert text in status.message
    assert status.finished
    assert status.link.endswith(f"/#/runs/details/{made.run_id}")


CANCELLED: dict[str, tuple[str, bool, str, str]] = {
    "its states": ("FAILED", True, "", ""),
    "its state": ("CANCELED", False, "", ""),
    "never reported as ended": ("CANCELING", True, "", ""),
    "its workflow's words": ("FAILED", False, "Max duration limit exceeded", ""),
    "its job's last words": ("FAILED", False, "", "up\nmlctl.end 143 stopped told to stop\n"),
    "its job ended well": ("FAILED", False, "", "up\nmlctl.end 0 stopped told to stop\n"),
}


@pytest.mark.parametrize("case", CANCELLED)
def test_run_that_was_terminated_is_cancelled_however_kfp_calls_it(case: str, idle: StandIn, home: Path) -> None:
    native, seen, error, log = CANCELLED[case]
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    made.pod, made.log[:] = "x1-system-container-impl-7", log.encode()
    made.history += ["CANCELING"] * seen
    made.end(native, error)
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert (status.state, status.reason) == (State.CANCELLED, Reason.CANCELLED)


def test_why_a_run_failed_is_waited_for_where_kfp_has_not_noted_its_task_yet(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    made.end("FAILED")
    assert "has not told of its task yet" in str(backend.status([run])[run])
    made.finished = "2026-01-01T00:00:00Z"
    status = backend.status([run])[run]
    assert isinstance(status, Status)
    assert status.reason is Reason.ERROR


@pytest.mark.parametrize("ahead", [-600, 600])
def test_how_long_ago_a_run_ended_is_by_the_servers_clock(
    ahead: int, idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = time.time() + ahead
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: formatdate(there, usegmt=True))
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    made.end("FAILED")
    made.finished = datetime.fromtimestamp(there, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "has not told of its task yet" in str(backend.status([run])[run])


def test_log_that_can_not_be_had_now_is_an_error_and_no_reason(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    made.pod = "x1-system-container-impl-7"
    made.end("FAILED")
    with idle.fault("busy", "/log$"):
        assert isinstance(backend.status([run])[run], Unavailable)
    with idle.fault("page", "/log$"):  # of a login
        assert isinstance(backend.status([run])[run], InvalidConfig)
        with pytest.raises(InvalidConfig, match=r"targets\.prod\.host"):
            backend.logs(run)


def test_log_is_read_in_pieces_and_anew_where_its_beginning_was_dropped(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    assert backend.logs(run).lines == ()
    made.pod, made.state = "x1-system-container-impl-7", "RUNNING"
    made.log[:] = b"one\ntwo\nhal"
    first = backend.logs(run)
    assert first.lines == ("one", "two")
    assert backend.logs(run, first.cursor) == dataclasses.replace(first, lines=())
    made.log += b'f\nmlctl.file {"name": "loss", "value": 1}\nlast mlctl.end 0 ok \n'
    second = backend.logs(run, first.cursor)
    assert second.lines == ("half", "last ")
    made.log[:] = "ü\n".encode() * 900_000
    third = backend.logs(run, second.cursor)
    assert set(third.lines) == {"ü"}
    lines, cursor = len(third.lines), third.cursor
    while (more := backend.logs(run, cursor)).lines:
        lines, cursor = lines + len(more.lines), more.cursor
    assert lines == 900_000
    with pytest.raises(InvalidConfig, match="cursor"):
        backend.logs(run, "x")


def test_run_that_ends_while_it_is_cancelled_stays_what_it_is(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    run = execution(backend).start().run
    (made,) = idle.runs.values()
    terminate = backend._terminate

    def late(run_id: str) -> None:
        made.end("SUCCEEDED")
        terminate(run_id)

    backend._terminate = late  # type: ignore[method-assign]
    backend.cancel(run)
    assert backend.status([run])[run].state is State.SUCCEEDED  # type: ignore[union-attr]


def test_prune_archives_what_ended_before(idle: StandIn, home: Path) -> None:
    backend = target(idle, home)
    runs = [execution(backend, key).start().run for key in ("one", "two")]
    made = idle.named(runs[0].name)[0]
    made.end("SUCCEEDED")
    assert list(backend.prune(0, False)) == []
    said = [f"run {runs[0].name}, archived"]
    assert list(backend.prune(4e9, True)) == said
    assert made.storage == "AVAILABLE"
    assert list(backend.prune(4e9, False)) == said
    assert made.storage == "ARCHIVED"
    assert list(backend.prune(4e9, False)) == []
    assert execution(backend).start().run == runs[0]  # its name is known as before


def test_doctor(idle: StandIn, home: Path) -> None:
    findings = {one.what: one for one in target(idle, home).check()}
    assert all(one.ok for one in findings.values())
    assert list(findings) == ["server", "experiment", "runs"]
    assert "the first run makes" in findings["experiment"].text
    assert idle.experiments == {}
    (bare,) = [one for one in target(idle, home, storage=None).check() if not one.ok]
    assert bare.what == "storage"
    broken = (
        ("forbidden", "/healthz", "server"),
        ("forbidden", "/experiments", "experiment"),
        ("busy", "/runs", "runs"),
    )
    for fault, call, what in broken:
        with idle.fault(fault, call):
            (bad,) = [one for one in target(idle, home).check() if not one.ok]
        assert (bad.what, bool(bad.mend)) == (what, True)


def test_server_of_several_users(home: Path) -> None:
    shared = StandIn(namespaces=True)
    try:
        (bad,) = [one for one in target(shared, home).check() if not one.ok]
        assert bad.mend == "set targets.prod.namespace to your profile's"
        backend = target(shared, home, namespace="growth", experiment="churn")
        assert all(one.ok for one in backend.check())
        run = execution(backend).start().run
        assert str(run).startswith("kfp://test/growth/churn/")
        assert not execution(target(shared, home, namespace="growth", experiment="churn")).start().made
        assert [each["namespace"] for each in shared.experiments.values()] == ["growth"]
        with pytest.raises(InvalidConfig, match="must have a namespace"):
            execution(target(shared, home)).start()
    finally:
        shared.close()
