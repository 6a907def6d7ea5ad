"""What goes wrong, and what is said of it: the setting to change, never two jobs, never a hang."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from sagemaker_harness import ACCOUNT, CREDENTIALS, REGION, ROLE, execution, target
from sagemaker_standin import StandIn

from mlctl import api, config, jobfile, lifecycle, watch
from mlctl.backends.sagemaker import aws as aws_module
from mlctl.errors import InvalidConfig, MlctlError, RunNotFound, Unauthorized, Unavailable
from mlctl.runs import Key, Run, State

WRONG: dict[str, tuple[type[MlctlError], str, dict[str, Any], dict[str, Any]]] = {
    "role": (InvalidConfig, "targets.prod.role: there is no role 'nobody' in account", {"role": "nobody"}, {}),
    "no role": (InvalidConfig, "targets.prod.role: it is not set", {"role": None}, {}),
    "another account's role": (
        InvalidConfig, "targets.prod.role: .*account 123456789012", {"role": "arn:aws:iam::210987654321:role/x"}, {},
    ),
    "bucket": (InvalidConfig, "targets.prod.bucket: there is no 'ml-nowhere'", {"bucket": "ml-nowhere"}, {}),
    "no bucket": (InvalidConfig, f"bucket: there is no 'sagemaker-{REGION}-{ACCOUNT}'", {"bucket": None}, {}),
    "output's bucket": (
        InvalidConfig, "targets.prod.bucket: .*ml-nowhere", {}, {"outputs": {"model": {"uri": "s3://ml-nowhere/x"}}},
    ),
    "region": (InvalidConfig, "targets.prod.region: got 'eu-wst-1'.*did you mean 'eu-west-1'", {"region": "eu-wst-1"}, {}),
    "no region": (InvalidConfig, "targets.prod.region: there is none", {"region": None}, {}),
    "bucket's region": (InvalidConfig, "targets.prod.bucket: 'ml-jobs' is in eu-west-1", {"region": "us-east-1"}, {}),
    "profile": (InvalidConfig, r"targets.prod.profile: .*\(nobody\)", {"profile": "nobody"}, {}),
    "instance": (InvalidConfig, "targets.prod.instance_type: .*ml.m5.huge", {"instance_type": "ml.m5.huge"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_error_names_the_setting(case: str, idle: StandIn, home: Path) -> None:
    error, text, settings, fields = WRONG[case]
    with pytest.raises(error, match=text):
        execution(target(home, **settings), **fields).start()
    assert idle.jobs == {}


def test_role_that_sagemaker_does_not_get(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to read roles, a bare name becomes an ARN unseen, and SageMaker itself says that it is none."""
    with idle.fault("forbidden", "iam"):
        assert target(home).resolve(execution(target(home)).job)["role"] == f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
        with pytest.raises(InvalidConfig, match=r"targets.prod.role: create_training_job: Could not assume role"):
            execution(target(home, role="nobody")).start()


def test_quota_that_will_never_do_and_quota_that_is_in_use(idle: StandIn, home: Path) -> None:
    idle.quotas["ml.m5.xlarge"] = (0, 0)
    with pytest.raises(InvalidConfig, match=r"targets.prod.instance_type: .*is 0 Instances"):
        execution(target(home)).start()
    idle.quotas["ml.m5.xlarge"] = (2, 2)
    with pytest.raises(Unavailable, match=r"targets.prod.instance_type"):
        execution(target(home)).start()
    idle.quotas.clear()
    assert execution(target(home)).start().made


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("throttled", Unavailable, "Rate exceeded; AWS is busy"),
        ("internal", Unavailable, "unknown error"),
        ("forbidden", Unauthorized, "targets.prod.profile needs that permission"),
        ("expired", Unauthorized, "log in again"),
    ],
)
def test_storm_ends_in_one_error_and_one_job(
    fault: str, error: type[MlctlError], text: str, idle: StandIn, home: Path
) -> None:
    backend = target(home)
    with idle.fault(fault), pytest.raises(error, match=text):
        execution(backend).start()
    run = execution(backend).start().run
    with idle.fault(fault):
        assert isinstance(backend.status([run])[run], error)
        with pytest.raises(error, match=text):
            backend.find(Key(f"{home}one", "sm"))
        with pytest.raises(error):
            backend.cancel(run)
    assert execution(backend).start().run == run
    assert len(idle.jobs) == 1


@pytest.mark.parametrize(
    ("fault", "text"), [("throttled", "AWS is busy"), ("forbidden", "targets.prod.profile needs that permission")]
)
def test_storm_of_the_bucket(fault: str, text: str, idle: StandIn, home: Path) -> None:
    with idle.fault(fault, "s3"), pytest.raises(MlctlError, match=text) as caught:
        execution(target(home)).start()
    assert isinstance(caught.value, (Unavailable, Unauthorized))
    assert idle.jobs == {}


def test_token_that_expired_is_fetched_anew_once(idle: StandIn, home: Path) -> None:
    backend = target(home)
    run = execution(backend).start().run
    with idle.fault("expired", times=1):
        status = backend.status([run])[run]
    assert not isinstance(status, MlctlError)


def test_answer_that_is_lost_is_no_second_job(idle: StandIn, home: Path) -> None:
    with idle.fault("lost", "sagemaker Create", times=1):
        outcome = execution(target(home)).start()
    assert outcome.made  # botocore's second try found the name taken, by ourselves
    assert len(idle.jobs) == 1
    with idle.fault("lost", "sagemaker Create"), pytest.raises(Unavailable):
        execution(target(home), "two").start()
    assert not execution(target(home), "two").start().made
    assert len(idle.jobs) == 2


def test_slow_answers_are_waited_for(idle: StandIn, home: Path) -> None:
    with idle.fault("slow", "sagemaker Create", times=2):
        assert execution(target(home)).start().made
    assert len(idle.jobs) == 1


def test_clock_that_is_wrong(idle: StandIn, home: Path) -> None:
    idle.skew = timedelta(hours=1)
    with pytest.raises(Unauthorized, match=r"set this machine's clock"):
        execution(target(home)).start()


def test_another_accounts_credentials(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = target(home)
    run = execution(backend).start().run
    assumed = boto3.client("sts", region_name=REGION).assume_role(
        RoleArn="arn:aws:iam::210987654321:role/other", RoleSessionName="other"
    )["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", assumed["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", assumed["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", assumed["SessionToken"])
    other = target(home)
    text = f"lives in account {ACCOUNT}, and these credentials are of 210987654321; change targets.prod.profile"
    status = other.status([run])[run]
    assert isinstance(status, Unavailable)
    assert text in str(status)
    for ask in (other.cancel, other.result, other.logs):
        with pytest.raises(Unavailable, match=text):
            ask(run)
    assert idle.job(run.name).status == "InProgress"


def test_a_url_finds_the_account_it_lives_in(
    idle: StandIn, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among a target without credentials, another account's, and the run's own."""
    run = execution(target(home)).start().run
    other = boto3.client("sts", region_name=REGION).assume_role(
        RoleArn="arn:aws:iam::210987654321:role/other", RoleSessionName="other"
    )["Credentials"]
    keys = {
        "dev": (other["AccessKeyId"], other["SecretAccessKey"], other["SessionToken"]),
        "prod": (CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], ""),
    }
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    lines = [
        line
        for profile, values in keys.items()
        for line in (f"[{profile}]", *(f"{name}={value}" for name, value in zip(names, values, strict=True) if value))
    ]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    targets = {name: {"backend": "sagemaker", "profile": name, "region": REGION} for name in ("nobody", *keys)}
    (tmp_path / "mlctl.yaml").write_text(json.dumps({"targets": targets}))
    found = api.reach(str(run), config.load(file=tmp_path / "mlctl.yaml"))
    assert found.backend.settings.target == "prod"
    assert not found.status().state.terminal


def test_no_credentials(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Unauthorized, match=r"targets.prod.profile"):
        execution(target(home)).start()


def test_server_that_is_not_there(idle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"is targets.prod.region right"):
        execution(target(home)).start()


def test_job_that_is_gone_behind_our_back(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = [
        execution(backend, key, kind=kind).start().run
        for key, kind in (("a", "train"), ("b", "process"), ("c", "train"))
    ]
    for key in [key for key in idle.jobs if key[3] in (runs[0].name, runs[1].name)]:
        del idle.jobs[key]
    answer = backend.status(runs)
    assert isinstance(answer[runs[0]], RunNotFound)
    assert isinstance(answer[runs[1]], RunNotFound)
    status = answer[runs[2]]
    assert not isinstance(status, MlctlError)
    assert status.state is State.STARTING


def test_one_refusal_spoils_no_other(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = [execution(backend, str(number)).start().run for number in range(3)]
    for run in runs:
        idle.job(run.name).end("Completed")
    with idle.fault("forbidden", "sagemaker Describe", times=1):
        answer = list(backend.status(runs).values())
    assert sorted(isinstance(one, Unauthorized) for one in answer) == [False, False, True]


def test_listing_that_is_refused_spoils_no_run(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = [execution(backend, str(number)).start().run for number in range(3)]
    with idle.fault("forbidden", "sagemaker List"):
        answer = backend.status(runs)
    assert [getattr(answer[run], "state", answer[run]) for run in runs] == [State.STARTING] * 3


def test_refused_run_spoils_no_other_wait(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = [execution(backend, str(number)).start().run for number in range(3)]
    idle.job(runs[0].name).end("Completed")
    with idle.fault("forbidden", "sagemaker Describe", times=1):
        poller = watch.Poller(backend, 0.2)
        waits: list[Future[Any]] = [Future() for _ in runs]
        for run, wait in zip(runs, waits, strict=True):
            poller.watch(run, wait.set_result)
        assert isinstance(waits[0].result(60), Unauthorized)
    for run in runs[1:]:
        idle.job(run.name).end("Completed")
    assert [wait.result(60).state for wait in waits[1:]] == [State.SUCCEEDED] * 2


@pytest.mark.parametrize("fault", ["throttled", "internal", "forbidden", "expired", "lost", "slow"])
def test_wait_ends_in_every_storm(fault: str, idle: StandIn, home: Path) -> None:
    backend = target(home)
    run = execution(backend).start().run
    began = time.monotonic()
    with idle.fault(fault), contextlib.suppress(Unauthorized, Unavailable):
        assert watch.until_done(backend, run, 1) is None
    assert time.monotonic() - began < 60
    assert idle.job(run.name).status == "InProgress"


def test_server_that_never_answers_is_given_up(home: Path, aws: pytest.MonkeyPatch, idle: StandIn) -> None:
    backend = target(home)
    run = execution(backend).start().run
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        patch.setattr(aws_module, "READ", 1)
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"get_caller_identity: .*timeout"):
            watch.until_done(target(home), run, 1)
    assert time.monotonic() - began < 60


def test_long_name_of_a_job_is_cut_to_what_sagemaker_takes(idle: StandIn, home: Path) -> None:
    backend, name = target(home), "n" * 63
    key = Key(f"{home}long", name)
    job = jobfile.load({"kind": "train", "name": name, "command": "true"})
    run = lifecycle.Execution(job, backend, backend.settings, key).start().run
    assert len(run.name) <= 63
    assert idle.job(run.name).status == "InProgress"
    assert [found.run for found in backend.find(key)] == [run]


def test_name_that_is_too_long(idle: StandIn, home: Path) -> None:
    backend = target(home)
    long = Run("sagemaker", ACCOUNT, f"{REGION}/training", "x" * 70 + "-0")
    assert isinstance(backend.status([long])[long], MlctlError)


def test_job_of_somebody_else_under_our_name(idle: StandIn, home: Path) -> None:
    backend = target(home)
    run = execution(backend).start().run
    idle.job(run.name).request["Environment"] = {}
    with pytest.raises(InvalidConfig, match=r"mlctl did not start"):
        execution(backend).start()


def test_no_sdk_is_imported_before_it_is_used() -> None:
    script = (
        "import sys; from mlctl.backend import Settings, load; from pathlib import Path;"
        "load('sagemaker', Settings('x', {}, Path('/tmp')));"
        "print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
