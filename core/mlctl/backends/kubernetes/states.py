"""What Kubernetes says of a Job and its pods, and what that is called here. What is not in these tables is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, State, Status

from .launch import RERUN, UNBUILT, UNSAVED
from .pod import CONTAINER
from .request import DOMAIN, record
from .stager import LACKING, UNFETCHED, UNREADABLE
from .staging import FETCH

__all__ = ["ENDED", "Ending", "dropped", "ended", "live", "overdue", "silent", "started", "status_of", "told"]

ENDED = f"{DOMAIN}/ended"
"""The annotation of a Job that somebody ends: why, a Reason's word and a text."""

STUCK = 300
"""Seconds after which a pod whose image can't be pulled is given up; it may be a registry's bad moment."""

_WAITING: Mapping[str, Reason] = {  # why a container waits, where that is more than a moment
    "ErrImagePull": Reason.IMAGE,
    "ImagePullBackOff": Reason.IMAGE,
    "ErrImageNeverPull": Reason.IMAGE,
    "InvalidImageName": Reason.IMAGE,
    "ImageInspectError": Reason.IMAGE,
    "RegistryUnavailable": Reason.IMAGE,
    "CreateContainerConfigError": Reason.ERROR,
    "CreateContainerError": Reason.ERROR,
}
_HOPELESS = ("InvalidImageName", "ErrImageNeverPull")
_PODS: Mapping[str, Reason] = {  # `status.reason` of a pod that failed
    "DeadlineExceeded": Reason.TIMEOUT,
    "Evicted": Reason.PREEMPTED,
    "Preempting": Reason.PREEMPTED,
    "Preempted": Reason.PREEMPTED,
    "Shutdown": Reason.PREEMPTED,
    "NodeShutdown": Reason.PREEMPTED,
    "Terminated": Reason.PREEMPTED,
    "NodeLost": Reason.INFRA,
    "NodeAffinity": Reason.INFRA,
    "UnexpectedAdmissionError": Reason.INFRA,
}
_OWN_FAULT = re.compile(r"ephemeral.*(exceeds|limit)|EmptyDir volume .* exceeds", re.IGNORECASE)
_JOBS: Mapping[str, Reason] = {  # the reason of a Job's condition Failed, where its pods say nothing
    "BackoffLimitExceeded": Reason.INFRA,
    "PodFailurePolicy": Reason.PREEMPTED,
    "DeadlineExceeded": Reason.TIMEOUT,
    "MaxFailedIndexesExceeded": Reason.ERROR,
    "FailedIndexes": Reason.ERROR,
}
_SAID = (
    (UNBUILT, Reason.IMAGE), (RERUN, Reason.INFRA), (UNSAVED, Reason.INFRA), (UNFETCHED, Reason.INFRA),
    (UNREADABLE, Reason.ERROR), (LACKING, Reason.IMAGE),
)  # fmt: skip
_UNSTARTED = ("ContainerCannotRun", "StartError")

Ending = tuple[Reason, str]
"""Why a run should be ended, and in which words."""


LOST = 600
"""Seconds after which a pod that was deleted and doesn't end is held to be gone with its node."""


SETTLED = 5
"""Seconds after which no controller makes a pod of a Job as it was before."""

KILLED = 3
"""Seconds that a kubelet takes, beyond a pod's grace, to kill what is left of it."""


def told(reason: Reason, text: str, at: datetime) -> str:
    """The annotation's value."""
    return json.dumps([reason.value, text, at.isoformat(timespec="seconds")])


def ended(job: Mapping[str, Any]) -> tuple[Reason, str, datetime] | None:
    """Why somebody ends a Job, in which words, and since when; None where nobody does."""
    try:
        reason, text, at = json.loads((job["metadata"].get("annotations") or {})[ENDED])
        return Reason(reason), str(text), datetime.fromisoformat(at)
    except (KeyError, ValueError, TypeError):
        return None


def live(
    pods: Iterable[Mapping[str, Any]], now: datetime, over: datetime | None = None
) -> list[Mapping[str, Any]]:  # fmt: skip
    """The pods of which something may still run; `over` is when their Job ended.

    Older servers say that a Job failed before its pods have: who is silent for LOST seconds after its deletion is gone with
    its node. Older kubelets say that a pod failed before its containers have ended, and may never say that they did: but they
    kill what is left after the pod's grace.
    """
    found = []
    for pod in pods:
        since, patience = _time(pod["metadata"].get("deletionTimestamp")), float(LOST)
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            if not any((each.get("state") or {}).get("running") for each in _statuses(pod)):
                continue
            since, patience = over or since, float(pod["spec"].get("terminationGracePeriodSeconds") or 30) + KILLED
        if since is None or (now - since).total_seconds() <= patience:
            found.append(pod)
    return found


def status_of(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Iterable[Mapping[str, Any]] | None, now: datetime
) -> Status:
    """The status of a Job with these pods; `events` are warnings, None where they may not be listed, `now` the server's clock.

    Raises MlctlError for a state that is unknown here.
    """
    conditions = {
        each["type"]: each for each in job.get("status", {}).get("conditions") or [] if each.get("status") == "True"
    }
    began = _first(started(pod) for pod in pods)
    if done := conditions.get("Complete"):
        finished = _time(job["status"].get("completionTime") or done.get("lastTransitionTime"))
        return Status(State.SUCCEEDED, None, "", 0, began, finished)
    why = ended(job)
    failed = conditions.get("Failed")
    finished = _time(failed.get("lastTransitionTime")) if failed else None
    if failed and not live(pods, now, finished):
        if why:
            return _ended(why, began, finished)
        reason, text, code = _failure(job, failed, pods)
        return Status(State.FAILED, reason, text, code, began, finished)
    if why and job["spec"].get("parallelism") == 0 and not live(pods, now) and (now - why[2]).total_seconds() > SETTLED:
        return _ended(why, began, why[2])  # it gets no pod any more: see Kubernetes._end
    if why or failed or "FailureTarget" in conditions:
        return Status(State.STOPPING, None, why[1] if why else "", None, began)
    if job["spec"].get("suspend"):
        return Status(State.QUEUED, None, "suspended: waits to be admitted by its queue")
    return _alive(job, pods, events, began)


def _ended(why: tuple[Reason, str, datetime], began: datetime | None, finished: datetime | None) -> Status:
    state = State.CANCELLED if why[0] is Reason.CANCELLED else State.FAILED
    return Status(state, why[0], why[1], None, began, finished)


def _alive(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]] | None,
    began: datetime | None,
) -> Status:
    """Running once every node's container has started."""
    waits = [pod for pod in pods if not started(pod)]
    if len(pods) < int(job["spec"].get("parallelism") or 1) and not waits:
        return Status(State.QUEUED, None, _event(job, events), None, began)
    if not waits:
        return Status(State.RUNNING, None, "", None, began)
    texts, scheduled = [], True
    for pod in waits:
        condition = _condition(pod, "PodScheduled")
        if condition.get("status") != "True":
            scheduled = False
            texts.append(f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": "))
        elif waiting := _waiting(pod):
            texts.append(f"{waiting[0]}: {waiting[1]}".strip(": "))
        elif _fetches(pod):
            texts.append("fetches its inputs")
        else:
            texts.append(_event(pod, events))
    text = next((text for text in texts if text), "")
    return Status(State.STARTING if scheduled else State.QUEUED, None, _line(text), None, began)


def silent(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> bool:
    """True where only events could say why it doesn't run yet."""
    if job["spec"].get("suspend") or job.get("status", {}).get("conditions"):
        return False
    waits = [pod for pod in pods if not started(pod)]
    return len(pods) < int(job["spec"].get("parallelism") or 1) or any(
        _condition(pod, "PodScheduled").get("status") == "True" and not _waiting(pod) and not _fetches(pod)
        for pod in waits
    )


def dropped(fields: Iterable[str]) -> Ending:
    """The end of a run whose Job lacks fields that were sent: a server drops silently what it doesn't know."""
    return Reason.ERROR, f"this cluster knows no {', '.join(sorted(fields))}, and dropped it; upgrade it, or do without"


def overdue(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], status: Status, now: datetime) -> Ending | None:
    """Why a run should be ended: it has waited for too long, or its submitter died before it saw what the server dropped.

    None where it shouldn't. `now` is the server's clock.
    """
    kept = record(job)
    if status.state.terminal or status.state is State.STOPPING:
        return None
    if lost := [f"spec.{name}" for name in kept.get("needs", ()) if name not in job["spec"]]:
        return dropped(lost)
    for pod in pods:
        if (end := _terminated(pod)).get("reason") in _UNSTARTED:  # and the container beside it waits for its end
            return Reason.ERROR, _line(f"it could not be started: {end.get('message', '')}")
    if status.state is State.RUNNING or any(_fetches(pod) for pod in pods):
        return None
    patience = int(kept.get("patience", 1800))
    since = _time(job["metadata"].get("creationTimestamp"))
    if not kept.get("queued"):  # time in a queue is the queue's to bound
        if job["spec"].get("suspend"):
            return None
        since = _time(job.get("status", {}).get("startTime")) or since
    waits = [pod for pod in pods if not started(pod)]
    made = _first(_last(_time(pod["metadata"].get("creationTimestamp")), _fetched(pod)) for pod in waits)
    since = since and _last(since, made)  # a pod may be anew, in place of one that somebody removed
    reason = Reason.QUOTA if "quota" in status.message else Reason.NO_CAPACITY
    hopeless = False
    for pod in pods:
        if waiting := _waiting(pod):
            reason, hopeless = _WAITING[waiting[0]], waiting[0] in _HOPELESS
            patience = min(STUCK, patience)
            since = _last(_time(_condition(pod, "PodScheduled").get("lastTransitionTime")), _fetched(pod)) or since
    waited = (now - since).total_seconds() if since else 0.0
    if not hopeless and waited <= patience:
        return None
    text = status.message or "nothing says why"
    return reason, text if hopeless else f"did not start in {round(waited)} s: {text}"


def _failure(
    job: Mapping[str, Any], failed: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]
) -> tuple[Reason, str, int | None]:
    """Why a Job failed: what its first failed pod says, else the Job's own condition."""
    native = str(failed.get("reason") or "")
    if native not in _JOBS:
        raise MlctlError(
            f"{job['metadata']['name']}: Kubernetes says it failed by '{native}', which mlctl doesn't know"
        )
    lost = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    if not lost:
        if native == "DeadlineExceeded" and not any(started(pod) for pod in pods):
            return Reason.NO_CAPACITY, "it did not start before its deadline, or its pods are gone", None
        text = "its pod is gone: deleted by somebody, or with its node" if native == "BackoffLimitExceeded" else ""
        return _JOBS[native], text or _line(str(failed.get("message") or native)), None
    # When one has failed, the others are deleted, and fail.
    return _pod_failure(min(lost, key=lambda pod: ("deletionTimestamp" in pod["metadata"], _finished(pod))))


def _pod_failure(pod: Mapping[str, Any]) -> tuple[Reason, str, int | None]:
    status = pod.get("status", {})
    native, message = str(status.get("reason") or ""), _line(str(status.get("message") or ""))
    name = pod["metadata"]["name"]
    container, end = _failed_end(pod)
    code = end.get("exitCode")
    said = str(end.get("message") or "")
    disrupted = _condition(pod, "DisruptionTarget")
    if disrupted.get("status") == "True":
        reason = Reason.INFRA if disrupted.get("reason") == "DeletionByPodGC" else Reason.PREEMPTED
        if native == "Evicted" and _OWN_FAULT.search(message):
            reason = Reason.ERROR
        return reason, _line(f"{disrupted.get('reason')}: {disrupted.get('message') or message}"), code
    if pod["metadata"].get("deletionTimestamp"):
        return Reason.INFRA, f"{name} was deleted by somebody", code
    if native in _PODS:
        reason = Reason.ERROR if native == "Evicted" and _OWN_FAULT.search(message) else _PODS[native]
        return reason, f"{native}: {message}".rstrip(": "), None if reason is Reason.TIMEOUT else code
    if native.startswith("OutOf"):
        return Reason.NO_CAPACITY, f"{native}: {message}".rstrip(": "), None
    for text, reason in _SAID:
        if said.startswith(text):
            return reason, _line(said), code
    if container != CONTAINER and end.get("reason") not in _UNSTARTED:
        text = f"{container}, beside the job: {end.get('reason') or 'Error'}, exit code {code}"
        return Reason.INFRA, _line(f"{text}: {said}".rstrip(": ")), None
    if end.get("reason") == "OOMKilled":
        return Reason.OOM, "killed: it took more memory than its limit", code
    if end.get("reason") in ("ContainerStatusUnknown", "ContainerStatusLost") or code is None:
        return Reason.INFRA, _line(f"{name}: {end.get('reason') or native or 'no end is known'} {message}"), None
    if end.get("reason") in _UNSTARTED:
        text = "it" if container == CONTAINER else f"{container}, beside the job,"
        return Reason.ERROR, _line(f"{text} could not be started: {said or message}"), code
    return Reason.ERROR, _line(said) or f"exit code {code}", code


def _statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(pod.get("status", {}).get("containerStatuses") or [])


def _job_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((each for each in _statuses(pod) if each.get("name") == CONTAINER), {})


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    end: Mapping[str, Any] = _job_container(pod).get("state", {}).get("terminated") or {}
    return end


def _failed_end(pod: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A container's name and its end: the job's; that of one beside it where only that failed, whoever put it there."""
    end = _terminated(pod)
    if end.get("exitCode"):
        return CONTAINER, end
    beside = [*(pod.get("status", {}).get("initContainerStatuses") or []), *_statuses(pod)]
    ends = [(str(each.get("name")), each.get("state", {}).get("terminated") or {}) for each in beside]
    return next((each for each in ends if each[1].get("exitCode")), (CONTAINER, end))


def _fetches(pod: Mapping[str, Any]) -> bool:
    return bool(_fetch(pod).get("running"))


def _fetched(pod: Mapping[str, Any]) -> datetime | None:
    """When stage-in ended, the time of which isn't waiting."""
    return _time((_fetch(pod).get("terminated") or {}).get("finishedAt"))


def _fetch(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("initContainerStatuses") or []
    return next((each.get("state") or {} for each in statuses if each.get("name") == FETCH), {})


def started(pod: Mapping[str, Any]) -> datetime | None:
    """When the job's own container started."""
    state = _job_container(pod).get("state", {})
    return _time((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _finished(pod: Mapping[str, Any]) -> str:
    return str(_terminated(pod).get("finishedAt") or pod.get("status", {}).get("startTime") or "9")


def _waiting(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a container waits that waits for more than its turn."""
    status = pod.get("status", {})
    for each in (*(status.get("initContainerStatuses") or []), *_statuses(pod)):
        waiting = each.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _WAITING:
            message, image = str(waiting.get("message") or ""), str(each.get("image") or "")
            named = _WAITING[waiting["reason"]] is not Reason.IMAGE or image in message
            return waiting["reason"], message if named else f"{image}: {message}"
    return None


def _condition(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind), {})


def _event(of: Mapping[str, Any], events: Iterable[Mapping[str, Any]] | None) -> str:
    """The latest warning about an object."""
    if events is None:
        return "why it waits can't be seen: the right to list events is lacking; docs/kubernetes.md has the Role that is needed"
    own = [each for each in events if each.get("involvedObject", {}).get("uid") == of["metadata"].get("uid")]
    if not own:
        return ""
    last = max(own, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return _line(f"{last.get('reason', '')}: {last.get('message', '')}")


def _first(times: Iterable[datetime | None]) -> datetime | None:
    return min((each for each in times if each), default=None)


def _last(*times: datetime | None) -> datetime | None:
    return max((each for each in times if each), default=None)


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else None


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
