"""What the records of Kubernetes mean, of versions that the tests' own cluster doesn't have, too."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlctl.backends.kubernetes import logs, states
from mlctl.errors import MlctlError
from mlctl.runs import Reason, State

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    *conditions: tuple[str, str],
    ended: tuple[Reason, str] | None = None,
    record: Any = None,
    since: float = 5,
    at: float = 5,
    **spec: Any,
) -> dict[str, Any]:
    annotations = {"mlctl.io/record": json.dumps(record or {"patience": 60, "queued": False})}
    if ended:
        annotations[states.ENDED] = states.told(*ended, NOW - timedelta(seconds=at))
    found = [
        {"type": kind, "status": "True", "reason": why, "lastTransitionTime": ago(since)} for kind, why in conditions
    ]
    return {
        "metadata": {"name": "run-0", "uid": "j", "annotations": annotations, "creationTimestamp": ago(1000)},
        "spec": {"parallelism": 1, **spec},
        "status": {"conditions": found, "startTime": ago(100)},
    }


def pod(
    phase: str = "Running", state: dict[str, Any] | None = None, reason: str = "", message: str = "", **more: Any
) -> dict[str, Any]:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(20)},
        *more.pop("conditions", []),
    ]
    statuses = [{"name": "job", "state": state}] if state else []
    status = {
        "phase": phase,
        "reason": reason,
        "message": message,
        "conditions": conditions,
        "containerStatuses": statuses,
    }
    return {"metadata": {"name": "run-0-x", "uid": "p", **more}, "spec": {}, "status": status}


def ended(code: int = 1, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": ago(50),
            "finishedAt": ago(9),
        }
    }


def beside(
    made: dict[str, Any], name: str, code: int | None, message: str = "", reason: str = "Error"
) -> dict[str, Any]:
    """A pod with a container beside the job's, which runs where it has no exit code."""
    state = RUNNING if code is None else {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    where = "initContainerStatuses" if name in ("stage-in", "vault") else "containerStatuses"
    made["status"].setdefault(where, []).append({"name": name, "state": state})
    return made


def disrupted(reason: str) -> list[dict[str, Any]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "a node was taken back"}]


BACKOFF, POLICY = ("Failed", "BackoffLimitExceeded"), ("Failed", "PodFailurePolicy")
RUNNING = {"running": {"startedAt": ago(50)}}

FAILED: dict[str, tuple[Any, list[Any], Reason, str, int | None]] = {
    "exit code": (job(BACKOFF), [pod("Failed", ended(3))], Reason.ERROR, "exit code 3", 3),
    "memory": (job(BACKOFF), [pod("Failed", ended(137, "OOMKilled"))], Reason.OOM, "more memory", 137),
    "deadline": (
        job(BACKOFF),
        [pod("Failed", ended(143), "DeadlineExceeded", "Pod was active")],
        Reason.TIMEOUT,
        "active",
        None,
    ),
    "drained": (
        job(POLICY),
        [pod("Failed", ended(143), conditions=disrupted("EvictionByEvictionAPI"))],
        Reason.PREEMPTED,
        "API",
        143,
    ),
    "no node": (
        job(POLICY),
        [pod("Failed", None, conditions=disrupted("DeletionByPodGC"))],
        Reason.INFRA,
        "PodGC",
        None,
    ),
    "preempted, gone": (job(POLICY), [], Reason.PREEMPTED, "PodFailurePolicy", None),
    "evicted": (
        job(BACKOFF),
        [pod("Failed", None, "Evicted", "The node was low on resource: memory.")],
        Reason.PREEMPTED,
        "low on",
        None,
    ),
    "own disk": (
        job(BACKOFF),
        [pod("Failed", None, "Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers")],
        Reason.ERROR,
        "exceeds",
        None,
    ),
    "own volume": (
        job(POLICY),
        [
            pod(
                "Failed",
                None,
                "Evicted",
                'Usage of EmptyDir volume "x" exceeds',
                conditions=disrupted("TerminationByKubelet"),
            )
        ],
        Reason.ERROR,
        "Terminat",
        None,
    ),
    "refused": (
        job(BACKOFF),
        [pod("Failed", None, "OutOfcpu", "Node didn't have enough")],
        Reason.NO_CAPACITY,
        "enough",
        None,
    ),
    "shut down": (
        job(BACKOFF),
        [pod("Failed", ended(143), "NodeShutdown", "Pod was terminated")],
        Reason.PREEMPTED,
        "terminated",
        143,
    ),
    "being deleted": (
        job(BACKOFF),
        [pod("Failed", ended(143), deletionTimestamp=ago(5))],
        Reason.INFRA,
        "deleted",
        143,
    ),
    "deleted": (job(BACKOFF), [], Reason.INFRA, "its pod is gone", None),
    "never started": (job(("Failed", "DeadlineExceeded")), [], Reason.NO_CAPACITY, "did not start", None),
    "unknown end": (job(BACKOFF), [pod("Failed", ended(137, "ContainerStatusUnknown"))], Reason.INFRA, "Unknown", None),
    "no program": (
        job(BACKOFF),
        [pod("Failed", ended(127, "ContainerCannotRun", "no such file"))],
        Reason.ERROR,
        "not be started",
        127,
    ),
    "requirements": (
        job(BACKOFF),
        [pod("Failed", ended(1, message="mlctl: the requirements could not be installed"))],
        Reason.IMAGE,
        "installed",
        1,
    ),
    "second pod": (
        job(BACKOFF),
        [pod("Failed", ended(1, message="mlctl: this attempt was started before, x"))],
        Reason.INFRA,
        "before",
        1,
    ),
    "not saved": (
        job(BACKOFF),
        [pod("Failed", ended(1, message="mlctl: an output could not be saved: m"))],
        Reason.INFRA,
        "saved",
        1,
    ),
    "not fetched": (
        job(BACKOFF),
        [
            beside(
                pod("Failed", {"waiting": {}}), "stage-in", 1, "mlctl: an input could not be fetched: s3://b: Timeout"
            )
        ],
        Reason.INFRA,
        "Timeout",
        1,
    ),
    "not uploaded": (
        job(BACKOFF),
        [beside(pod("Failed", ended(0, "Completed")), "stage-out", 1, "mlctl: an output could not be saved: s3://b")],
        Reason.INFRA,
        "saved: s3://b",
        1,
    ),
    "own code before the other's": (
        job(BACKOFF),
        [beside(pod("Failed", ended(3)), "stage-out", 1, "")],
        Reason.ERROR,
        "exit code 3",
        3,
    ),
    "stage-out out of memory": (
        job(BACKOFF),
        [beside(pod("Failed", ended(0, "Completed")), "stage-out", 137, reason="OOMKilled")],
        Reason.INFRA,
        "stage-out, beside the job: OOMKilled, exit code 137",
        None,
    ),
    "own memory before the other's": (
        job(BACKOFF),
        [beside(pod("Failed", ended(137, "OOMKilled")), "mesh", 1)],
        Reason.OOM,
        "more memory",
        137,
    ),
    "no program in the stage image": (
        job(BACKOFF),
        [beside(pod("Failed", {"waiting": {}}), "stage-in", 127, "no such file", "ContainerCannotRun")],
        Reason.ERROR,
        "stage-in, beside the job, could not be started: no such file",
        127,
    ),
    "given up": (job(("Failed", "DeadlineExceeded"), ended=(Reason.QUOTA, "waited")), [], Reason.QUOTA, "waited", None),
}


@pytest.mark.parametrize("name", FAILED)
def test_why_it_failed(name: str) -> None:
    made, pods, reason, text, code = FAILED[name]
    status = states.status_of(made, pods, (), NOW)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, reason, code)
    assert text in status.message


def test_first_failure_of_several_nodes_counts() -> None:
    first = pod("Failed", {"terminated": {"exitCode": 4, "finishedAt": ago(8), "startedAt": ago(50)}})
    second = pod("Failed", {"terminated": {"exitCode": 5, "finishedAt": ago(7), "startedAt": ago(50)}})
    deleted = pod("Failed", ended(143), deletionTimestamp=ago(7))
    assert states.status_of(job(BACKOFF), [second, deleted, first], (), NOW).exit_code == 4


def test_unknown_state_is_an_error() -> None:
    with pytest.raises(MlctlError, match="'Bored', which mlctl doesn't know"):
        states.status_of(job(("Failed", "Bored")), [], (), NOW)


START_ERROR = {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file", "startedAt": ago(50)}}

LIVING: dict[str, tuple[Any, list[Any], State]] = {
    "no pod": (job(), [], State.QUEUED),
    "queue": (job(suspend=True), [], State.QUEUED),
    "pulling": (job(), [pod("Pending", {"waiting": {"reason": "ContainerCreating"}})], State.STARTING),
    "running": (job(), [pod("Running", RUNNING)], State.RUNNING),
    "fetching": (job(), [beside(pod("Pending", {"waiting": {}}), "stage-in", None)], State.STARTING),
    "saving": (job(), [beside(pod("Running", ended(0)), "stage-out", None)], State.RUNNING),
    "one of two": (job(parallelism=2), [pod("Running", RUNNING)], State.QUEUED),
    "two of two": (job(parallelism=2), [pod("Running", RUNNING), pod("Succeeded", ended(0))], State.RUNNING),
    "ending": (job(("FailureTarget", "PodFailurePolicy")), [pod("Running", RUNNING)], State.STOPPING),
    "failed, a pod left": (job(BACKOFF), [pod("Running", RUNNING)], State.STOPPING),
    "failed, a container left": (job(BACKOFF), [pod("Failed", RUNNING)], State.STOPPING),
    "failed, its node silent": (job(BACKOFF, since=34), [pod("Failed", RUNNING, "NodeLost")], State.FAILED),
    "failed, deleted and silent": (job(BACKOFF), [pod("Running", RUNNING, deletionTimestamp=ago(1000))], State.FAILED),
    "cancelled": (job(ended=(Reason.CANCELLED, "cancelled")), [pod("Running", RUNNING)], State.STOPPING),
    "cancelled in its queue": (
        job(ended=(Reason.CANCELLED, "c"), at=9, suspend=True, parallelism=0),
        [],
        State.CANCELLED,
    ),
    "cancelled just now": (job(ended=(Reason.CANCELLED, "c"), at=1, suspend=True, parallelism=0), [], State.STOPPING),
    "cancelled, and done": (
        job(("Failed", "BackoffLimitExceeded"), ended=(Reason.CANCELLED, "c")),
        [],
        State.CANCELLED,
    ),
    "cancelled too late": (job(("Complete", ""), ended=(Reason.CANCELLED, "c")), [], State.SUCCEEDED),
}


@pytest.mark.parametrize("name", LIVING)
def test_where_it_is(name: str) -> None:
    made, pods, state = LIVING[name]
    assert states.status_of(made, pods, (), NOW).state is state


def waits(reason: str, scheduled: float = 20) -> dict[str, Any]:
    made = pod("Pending", {"waiting": {"reason": reason, "message": "no such image"}})
    made["status"]["conditions"][0]["lastTransitionTime"] = ago(scheduled)
    return made


def fetched(made: dict[str, Any], since: float) -> dict[str, Any]:
    """A pod whose inputs were fetched that many seconds ago."""
    beside(made, "stage-in", 0)["status"]["initContainerStatuses"][0]["state"]["terminated"]["finishedAt"] = ago(since)
    return made


OVERDUE: dict[str, tuple[Any, list[Any], Reason | None]] = {
    "patient": (job(record={"patience": 200, "queued": False}), [], None),
    "unscheduled": (job(), [], Reason.NO_CAPACITY),
    "made anew": (job(), [pod("Pending", {"waiting": {}}, creationTimestamp=ago(5))], None),
    "made anew, long ago": (job(), [pod("Pending", {"waiting": {}}, creationTimestamp=ago(65))], Reason.NO_CAPACITY),
    "no name": (job(record={"patience": 1800}), [waits("InvalidImageName")], Reason.IMAGE),
    "a registry's moment": (job(record={"patience": 1800}), [waits("ImagePullBackOff")], None),  # for 20 s
    "no image": (job(record={"patience": 10}), [waits("ImagePullBackOff")], Reason.IMAGE),
    "fetching takes its time": (job(), [beside(pod("Pending", {"waiting": {}}), "stage-in", None)], None),
    "fetching took its time": (job(), [fetched(waits("PodInitializing"), 5)], None),
    "fetched long ago": (job(), [fetched(waits("PodInitializing"), 65)], Reason.NO_CAPACITY),
    "fetched, then a registry's moment": (
        job(record={"patience": 1800}),
        [fetched(waits("ErrImagePull", scheduled=400), 5)],
        None,
    ),
    "fetched, then no image": (
        job(record={"patience": 1800}),
        [fetched(waits("ErrImagePull", scheduled=400), 305)],
        Reason.IMAGE,
    ),
    "no shell, one waits": (job(), [beside(pod("Running", START_ERROR), "stage-out", None)], Reason.ERROR),
    "a queue's time": (job(suspend=True), [], None),
    "time in a queue counts": (job(suspend=True, record={"patience": 60, "queued": True}), [], Reason.NO_CAPACITY),
    "running": (job(), [pod("Running", RUNNING)], None),
    "a field dropped": (job(record={"needs": ["completionMode"]}), [pod("Running", RUNNING)], Reason.ERROR),
    "a field kept": (job(record={"needs": ["suspend"]}, suspend=False), [pod("Running", RUNNING)], None),
    "ended already": (job(record={"needs": ["suspend"]}, ended=(Reason.ERROR, "x")), [pod("Running", RUNNING)], None),
}


@pytest.mark.parametrize("name", OVERDUE)
def test_what_waits_too_long(name: str) -> None:
    made, pods, reason = OVERDUE[name]
    ending = states.overdue(made, pods, states.status_of(made, pods, (), NOW), NOW)
    assert (ending and ending[0]) == reason


def test_warning_says_why_nothing_starts() -> None:
    said = {
        "involvedObject": {"uid": "j"},
        "reason": "FailedCreate",
        "message": "exceeded quota: small",
        "lastTimestamp": ago(5),
    }
    status = states.status_of(job(), [], [said, {**said, "involvedObject": {"uid": "other"}, "message": "x"}], NOW)
    assert status.message == "FailedCreate: exceeded quota: small"
    ending = states.overdue(job(), [], status, NOW)
    assert ending
    assert ending[0] is Reason.QUOTA


class Log:
    """A server with one pod's log, which keeps to sinceTime in whole seconds and to limitBytes, as a kubelet does."""

    def __init__(self, text: str) -> None:
        self.data = text

    def path(self, *words: str) -> str:
        return "/".join(words)

    def text(self, path: str, limitBytes: int = 0, sinceTime: str = "", **query: Any) -> str:  # noqa: N803 - the API's
        whole = [line for line in self.data.splitlines(keepends=True) if line[:19] >= sinceTime[:19]]
        return "".join(whole).encode()[:limitBytes].decode("utf-8", "ignore")


def lines(log: Log, phase: str = "Succeeded", step: int = 1 << 20) -> list[str]:
    """All of a log, by cursors, as the lifecycle asks for it."""
    one = {"metadata": {"name": "p"}, "status": {"phase": phase}}
    found: list[str] = []
    cursor = ""
    while True:
        batch = logs.read(log, "n", [one], cursor)  # type: ignore[arg-type]
        found += batch.lines
        if not batch.lines and batch.cursor == cursor:
            return found
        cursor = batch.cursor


def test_log_by_cursors_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CHUNK", 200)
    texts = [f"line {number}" for number in range(300)]
    stamps = [f"2026-01-01T00:00:{number // 100:02}.{number // 3:09}Z" for number in range(300)]  # three of one time
    stamps = [stamp.replace(".000000010Z", ".00000001Z") for stamp in stamps]  # as some leave zeros out
    log = Log("".join(f"{stamp} {text}\n" for stamp, text in zip(stamps, texts, strict=True)))
    assert lines(log) == texts


@pytest.mark.parametrize("before", ["", "2026-01-01T00:00:00.000000001Z one\n"])
def test_log_that_is_gone_is_told_once(before: str) -> None:
    """The kubelet says so where a line would be, without a time."""
    log, one = Log(before), {"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}}
    cursor = logs.read(log, "n", [one], "").cursor  # type: ignore[arg-type]
    log.data = "unable to retrieve container logs for docker://0a1b"
    told: list[str] = []
    for _ in range(3):
        batch = logs.read(log, "n", [one], cursor)  # type: ignore[arg-type]
        told, cursor = [*told, *batch.lines], batch.cursor
    assert told == ([] if before else [log.data])
    log.data = "2026-01-01T00:00:01.000000001Z two\n"  # after all
    assert logs.read(log, "n", [one], cursor).lines == ("two",)  # type: ignore[arg-type]


def test_log_hides_what_is_ours_and_waits_for_a_line_to_end() -> None:
    stamp = "2026-01-01T00:00:00.000000001Z"
    log = Log(
        f'{stamp} one\n{stamp} par{{mlctl.file {{"name": "loss"}}\n{stamp} mlctl.file {{"name": "x"}}\n{stamp} half'
    )
    assert lines(log, "Running") == ["one", "par{"]
    assert lines(log) == ["one", "par{", "half"]
