"""What goes wrong, and what is said of it: the setting to change, never two jobs, never a hang."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from sagemaker_harness import REGION, ROLE, SETTINGS
from sagemaker_standin import Job as NativeJob
from sagemaker_standin import StandIn

from mlctl import jobfile, lifecycle, watch
from mlctl.backend import Settings
from mlctl.backends.sagemaker import SageMaker
from mlctl.errors import InvalidConfig, MlctlError, RunNotFound, Unauthorized, Unavailable
from mlctl.runs import Key, Reason, Run, State

ACCOUNT = "123456789012"


@pytest.fixture
def idle(aws: pytest.MonkeyPatch, standin: StandIn) -> Iterator[StandIn]:
    """A second server of the same account, on which jobs stay InProgress."""
    made = StandIn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "mlctl"
    made.mkdir()
    return made


def target(home: Path, **settings: Any) -> SageMaker:
    values = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    return SageMaker(Settings("prod", values, home))


def execution(backend: SageMaker, key: str = "one", **fields: Any) -> lifecycle.Execution:
    job = jobfile.load({"kind": "train", "name": "sm", "command": "true", **fields})
    return lifecycle.Execution(job, backend, backend.settings, Key(f"{backend.settings.home}{key}", "sm"))


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
    with idle.fault("lost", times=1, operation="Create"):
        outcome = execution(target(home)).start()
    assert outcome.made  # botocore's second try found the name taken, by ourselves
    assert len(idle.jobs) == 1
    with idle.fault("lost", operation="Create"), pytest.raises(Unavailable):
        execution(target(home), "two").start()
    assert not execution(target(home), "two").start().made
    assert len(idle.jobs) == 2


def test_slow_answers_are_waited_for(idle: StandIn, home: Path) -> None:
    with idle.fault("slow", times=2, operation="Create"):
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
    with idle.fault("forbidden", times=1, operation="Describe"):
        answer = list(backend.status(runs).values())
    assert sorted(isinstance(one, Unauthorized) for one in answer) == [False, False, True]


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


@pytest.mark.parametrize(
    ("kind", "status", "phase", "said", "state", "reason", "code"),
    [
        ("train", "Failed", "", "AlgorithmError: , exit code: 1", State.FAILED, Reason.ERROR, 1),
        ("train", "Failed", "", "AlgorithmError: , exit code: 137", State.FAILED, Reason.OOM, 137),
        (
            "train",
            "Failed",
            "",
            "ClientError: Please use an instance type with more memory",
            State.FAILED,
            Reason.OOM,
            None,
        ),
        ("train", "Failed", "", "CapacityError: Unable to provision compute", State.FAILED, Reason.NO_CAPACITY, None),
        (
            "train",
            "Failed",
            "",
            "InternalServerError: We encountered an internal error.",
            State.FAILED,
            Reason.INFRA,
            None,
        ),
        ("train", "Failed", "", "ClientError: Cannot pull from ECR: image not found", State.FAILED, Reason.IMAGE, None),
        ("train", "Stopped", "MaxRuntimeExceeded", "", State.FAILED, Reason.TIMEOUT, None),
        ("train", "Completed", "MaxRuntimeExceeded", "", State.FAILED, Reason.TIMEOUT, None),
        ("train", "Stopped", "MaxWaitTimeExceeded", "", State.FAILED, Reason.NO_CAPACITY, None),
        ("train", "Stopped", "Interrupted", "", State.FAILED, Reason.PREEMPTED, None),
        ("train", "Stopped", "", "", State.CANCELLED, Reason.CANCELLED, None),
        ("train", "Completed", "", "", State.SUCCEEDED, None, None),
        ("process", "Failed", "", "AlgorithmError: See job logs, exit code: 4", State.FAILED, Reason.ERROR, 4),
        ("process", "Failed", "", "InternalServerError", State.FAILED, Reason.INFRA, None),
        ("process", "Stopped", "", "", State.CANCELLED, Reason.CANCELLED, None),
    ],
)
def test_ends(
    kind: str, status: str, phase: str, said: str, state: State, reason: Reason | None, code: int | None, idle: StandIn,
    home: Path,
) -> None:  # fmt: skip
    idle.outcomes.append(("sm-", (status, phase, said)))
    backend = target(home)
    run = execution(backend, kind=kind).start().run
    found = watch.until_done(backend, run, 60)
    assert found is not None
    assert (found.state, found.reason, found.exit_code) == (state, reason, code)
    assert said in found.message
    assert found.finished is not None


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("Pending", State.QUEUED),
        ("Starting", State.STARTING),
        ("Training", State.RUNNING),
        ("Interrupted", State.QUEUED),
    ],
)
def test_phases(phase: str, state: State, idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = [execution(backend, str(number)).start().run for number in range(2)]
    for run in runs:
        idle.job(run.name).phase = phase
    described, listed = backend.status(runs[:1])[runs[0]], backend.status(runs)[runs[0]]
    assert not isinstance(described, MlctlError)
    assert not isinstance(listed, MlctlError)
    assert described.state is listed.state is state


def test_unknown_state_is_an_error() -> None:
    from mlctl.backends.sagemaker.states import status_of

    run = Run("sagemaker", ACCOUNT, f"{REGION}/training", "x-0")
    for native, phase in (("Deleting", ""), ("Dreaming", ""), ("InProgress", "Dreaming")):
        with pytest.raises(MlctlError, match=r"which this version of mlctl doesn't know"):
            status_of(run, {"TrainingJobStatus": native, "SecondaryStatus": phase})


def test_every_phase_of_the_model_is_known() -> None:
    import sagemaker_model

    from mlctl.backends.sagemaker.states import _PHASES

    assert set(sagemaker_model.service().shape_for("SecondaryStatus").enum) == set(_PHASES)


def filled(standin: StandIn, backend: SageMaker, count: int) -> list[Run]:
    """Runs that go on, as many copies of one."""
    first = execution(backend).start().run
    request = standin.job(first.name).request
    now = datetime.now(timezone.utc)
    standin.jobs.clear()
    runs = [dataclasses.replace(first, name=f"many-{number:05}-0") for number in range(count)]
    for number, run in enumerate(runs):
        copied = {**request, "TrainingJobName": run.name}
        key = (ACCOUNT, REGION, "Training", run.name)
        standin.jobs[key] = NativeJob("Training", ACCOUNT, REGION, copied, now - timedelta(seconds=number))
    standin.calls.clear()
    return runs


def test_calls_grow_with_pages(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = filled(idle, backend, 1000)
    answer = backend.status(runs)
    assert [getattr(one, "state", one) for one in answer.values()] == [State.STARTING] * 1000
    assert dict(idle.calls) == {"ListTrainingJobs": 10}
    for run in runs[:3]:
        idle.job(run.name).end("Stopped")
    idle.calls.clear()
    answer = backend.status(runs)
    assert [getattr(answer[run], "state", answer[run]) for run in runs[:4]] == [State.CANCELLED] * 3 + [State.STARTING]
    assert dict(idle.calls) == {"ListTrainingJobs": 10, "DescribeTrainingJob": 3}


def test_few_runs_among_many_cost_no_more_than_a_page_each(idle: StandIn, home: Path) -> None:
    backend = target(home)
    runs = filled(idle, backend, 1000)
    backend.status(runs[-2:])
    assert dict(idle.calls) == {"ListTrainingJobs": 2, "DescribeTrainingJob": 2}


def test_doctor(idle: StandIn, home: Path) -> None:
    found = list(target(home).check())
    assert [(one.what, one.ok) for one in found] == [
        (what, True) for what in ("region", "credentials", "role", "bucket", "sagemaker", "quota")
    ]
    assert "15 ml.m5.xlarge for training" in found[-1].text


@pytest.mark.parametrize(
    ("what", "settings", "fault", "mend"),
    [
        ("region", {"region": "eu-wst-1"}, None, "targets.prod.region"),
        ("credentials", {}, ("forbidden", "sts"), "targets.prod.profile"),
        ("role", {"role": "nobody"}, None, "targets.prod.role"),
        ("bucket", {"bucket": "ml-nowhere"}, None, "aws s3 mb s3://ml-nowhere"),
        ("sagemaker", {}, ("forbidden", "sagemaker"), "docs/sagemaker.md"),
        ("quota", {"instance_type": "ml.p3.2xlarge"}, None, "Service Quotas"),
    ],
)
def test_doctor_says_how_to_mend(
    what: str, settings: dict[str, Any], fault: tuple[str, str] | None, mend: str, idle: StandIn, home: Path
) -> None:
    if fault:
        with idle.fault(*fault):
            found = list(target(home, **settings).check())
    else:
        found = list(target(home, **settings).check())
    bad = [one for one in found if not one.ok]
    assert [one.what for one in bad] == [what]
    assert mend in bad[0].mend
    assert bad[0].text


def test_no_sdk_is_imported_before_it_is_used() -> None:
    script = (
        "import sys; from mlctl.backend import Settings, load; from pathlib import Path;"
        "load('sagemaker', Settings('x', {}, Path('/tmp')));"
        "print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
