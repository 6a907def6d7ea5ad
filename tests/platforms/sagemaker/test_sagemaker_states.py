"""How a run is seen on its way and at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from sagemaker_harness import ACCOUNT, REGION, execution, target
from sagemaker_standin import StandIn

from mlctl import watch
from mlctl.errors import MlctlError
from mlctl.runs import Reason, Run, State


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
