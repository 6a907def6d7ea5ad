"""What SageMaker says of a job, and what that is called here. A state that is not in these tables is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, Run, State, Status

from .launch import UNBUILT

__all__ = ["status_of"]

_PHASES: Mapping[str, State] = {  # of a training job that is InProgress
    "Pending": State.QUEUED,
    "Interrupted": State.QUEUED,  # a spot instance was taken back, and the next is waited for
    "Starting": State.STARTING,
    "LaunchingMLInstances": State.STARTING,
    "PreparingTrainingStack": State.STARTING,
    "Downloading": State.STARTING,
    "DownloadingTrainingImage": State.STARTING,
    "Restarting": State.STARTING,
    "Training": State.RUNNING,
    "Updating": State.RUNNING,
    "Uploading": State.RUNNING,
    "Stopping": State.STOPPING,
    "MaxRuntimeExceeded": State.STOPPING,
    "MaxWaitTimeExceeded": State.STOPPING,
    "Completed": State.RUNNING,  # its last seconds
    "Failed": State.RUNNING,
    "Stopped": State.STOPPING,
}
_STOPPED: Mapping[str, Reason] = {
    "MaxRuntimeExceeded": Reason.TIMEOUT,
    "MaxWaitTimeExceeded": Reason.NO_CAPACITY,
    "Interrupted": Reason.PREEMPTED,
}
_FAILURES = (  # the first that matches what SageMaker says
    (rf"{UNBUILT}|CannotPullContainer|ImagePull|\bECR\b|image .*(not exist|not found|cannot|could not)", Reason.IMAGE),
    (r"CapacityError|InsufficientCapacity|Unable to provision", Reason.NO_CAPACITY),
    (r"ResourceLimitExceeded|[Qq]uota", Reason.QUOTA),
    (r"OutOfMemory|instance type with more memory|exit code: 137", Reason.OOM),
    (r"Interrupted|[Ss]pot .*(interrupt|reclaim)", Reason.PREEMPTED),
    (r"InternalServerError|InternalError|ServiceUnavailable|internal error", Reason.INFRA),
)


def status_of(run: Run, answer: Mapping[str, Any]) -> Status:
    """The status in an answer of Describe*, or in a line of List*. Raises MlctlError for a state that is unknown here."""
    training = run.scope.endswith("/training")
    kind = "Training" if training else "Processing"
    native, phase = answer[f"{kind}JobStatus"], answer.get("SecondaryStatus", "")
    finished = _time(answer.get(f"{kind}EndTime"))
    known: dict[str, Any] = {"started": _time(answer.get(f"{kind}StartTime")), "link": _link(run, training)}
    said = " ".join(str(answer.get("FailureReason") or answer.get("ExitMessage") or "").split())
    if native == "InProgress":
        if phase and phase not in _PHASES:
            raise MlctlError(f"{run}: SageMaker says {native}, {phase}, which this version of mlctl doesn't know")
        # A processing job has no phases; what has no start yet is starting, where the answer would tell.
        waiting = (
            not training and "ProcessingJobArn" in answer and "AppSpecification" in answer and not known["started"]
        )
        return Status(_PHASES[phase] if phase else State.STARTING if waiting else State.RUNNING, message=phase, **known)
    if native == "Stopping":
        return Status(State.STOPPING, message=phase, **known)
    known["finished"] = finished or _time(answer.get("LastModifiedTime"))
    if native == "Completed" and phase not in _STOPPED:
        return Status(State.SUCCEEDED, **known)
    if native in ("Completed", "Stopped"):
        reason = _STOPPED.get(phase) or _stopped(answer, said)
        if reason is Reason.CANCELLED:
            return Status(State.CANCELLED, reason, said or "stopped", **known)
        return Status(State.FAILED, reason, said or phase or "stopped after MaxRuntimeInSeconds", **known)
    if native == "Failed":
        code = re.search(r"exit code: (\d+)", said)
        reason = next((reason for pattern, reason in _FAILURES if re.search(pattern, said)), Reason.ERROR)
        return Status(State.FAILED, reason, said, int(code[1]) if code else None, **known)
    raise MlctlError(f"{run}: SageMaker says {native}, which this version of mlctl doesn't know")


def _stopped(answer: Mapping[str, Any], said: str) -> Reason:
    """Why a job was stopped that has no phase: a processing job ran as long as it might, or somebody stopped it."""
    if "MaxPendingTime" in said:
        return Reason.NO_CAPACITY
    started, finished = _time(answer.get("ProcessingStartTime")), _time(answer.get("ProcessingEndTime"))
    limit = answer.get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
    if started and finished and limit and (finished - started).total_seconds() >= limit:
        return Reason.TIMEOUT
    return Reason.CANCELLED


def _time(value: Any) -> datetime | None:
    return value.astimezone(timezone.utc) if isinstance(value, datetime) else None


def _link(run: Run, training: bool) -> str:
    region = run.scope.partition("/")[0]
    page = "jobs" if training else "processing-jobs"
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{page}/{run.name}"
