"""What is known of many runs: by lists of those that are named; for more than a hundred by a watch of each kind that goes on
between calls, whose word is taken for what can be taken back only."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlctl.errors import MlctlError, RunNotFound
from mlctl.runs import Run, State, Status

from . import states
from .api import Api, Forbidden
from .mirror import Mirror
from .request import ALL, DOMAIN

__all__ = ["Polling", "gone", "pods_of"]

_NAMED = 100  # runs that are asked for by name; more are a watch of all that is mlctl's
_NAP = 0.1  # seconds for which no watch is worth its while

Judged = tuple[Status | MlctlError, states.Ending | None]
"""A run's status, and why the run should be ended."""


def gone(run: Run) -> RunNotFound:
    """For a run whose Job isn't there."""
    return RunNotFound(f"{run}: there is no such Job; it is removed some days after its end, or by somebody")


def pods_of(api: Api, namespace: str, selector: str) -> dict[str, list[dict[str, Any]]]:
    """Run's name -> its pods, in the order of its nodes, and for each in that in which they were made."""
    return _by_run(api.listed("pods", namespace, selector))


class Polling:
    """Of the runs of one cluster. `give_up` ends one that should be ended, and gives its status then."""

    def __init__(self, api: Api, give_up: Callable[[Run, Status, states.Ending], Status]) -> None:
        self._api, self._give_up = api, give_up
        self._lock = threading.Lock()
        self._mirrors: dict[tuple[str, str], Mirror] = {}
        self._last = threading.local()
        """`list`: namespace, selector and version of the thread's last list of Jobs."""

    def statuses(self, namespace: str, runs: Sequence[Run]) -> dict[Run, Status | MlctlError]:
        """One list of Jobs and one of pods for each hundred runs, or no call at all; and a list of warnings where only they
        say why a run waits."""
        answer: dict[Run, Status | MlctlError] = {}
        if len(runs) > _NAMED:
            watched = self._judged(namespace, runs, lambda kind, **only: self._mirror(kind, namespace, **only).things())
            answer = {run: status for run, (status, _) in watched.items()}
            runs = [run for run, judged in watched.items() if _grave(*judged)]  # to be seen, not heard of, in one order
        for first in range(0, len(runs), _NAMED):
            some = runs[first : first + _NAMED]
            named = _named(some)

            def listed(kind: str, fields: str = "", named: str = named) -> list[dict[str, Any]]:
                found, version = self._api.snapshot(kind, namespace, "" if fields else named, fields)
                if kind == "jobs":
                    self._last.list = namespace, named, version
                return found

            for run, (status, ending) in self._judged(namespace, some, listed).items():
                try:
                    answer[run] = (
                        self._give_up(run, status, ending) if ending and isinstance(status, Status) else status
                    )
                except MlctlError as error:
                    answer[run] = error
        return answer

    def _judged(
        self, namespace: str, runs: Sequence[Run], things: Callable[..., list[dict[str, Any]]]
    ) -> dict[Run, Judged]:
        """`things` gives Jobs, pods and, where they are needed, warnings."""
        jobs = {job["metadata"]["name"]: job for job in things("jobs")}
        pods = _by_run(things("pods"))
        events: list[dict[str, Any]] | None = []
        if any(run.name in jobs and states.silent(jobs[run.name], pods.get(run.name, [])) for run in runs):
            try:
                events = things("events", fields="type=Warning")
            except Forbidden:  # they explain a status, and make none
                events = None
        now = self._api.clock.now()
        answer: dict[Run, Judged] = {}
        for run in runs:
            if run.name not in jobs:
                answer[run] = gone(run), None
                continue
            try:
                job, own = jobs[run.name], pods.get(run.name, [])
                status = states.status_of(job, own, events, now)
                answer[run] = status, states.overdue(job, own, status, now)
            except MlctlError as error:
                answer[run] = error, None
        return answer

    def _mirror(self, kind: str, namespace: str, fields: str = "") -> Mirror:
        with self._lock:
            if (kind, namespace) not in self._mirrors:
                self._mirrors[kind, namespace] = Mirror(self._api, kind, namespace, "" if fields else ALL, fields)
            return self._mirrors[kind, namespace]

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """Sleeps, but where few runs are waited for only until a Job of theirs changes: a watch since this thread's last list."""
        until = time.monotonic() + seconds
        namespace, named, version = getattr(self._last, "list", ("", "", ""))
        if seconds >= _NAP and version and named == _named(runs) and {run.scope for run in runs} == {namespace}:
            silent = seconds if seconds < 1 else seconds + 1  # who is quiet for longer than that is broken
            changes = self._api.changes("jobs", namespace, named, "", version, max(1, int(seconds)), silent)
            with (
                contextlib.suppress(MlctlError),
                contextlib.closing(changes),
            ):  # whatever it is, the next status says so
                if any(how != "BOOKMARK" for how, _ in changes):
                    return
        time.sleep(max(0.0, until - time.monotonic()))


def _by_run(all_pods: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for pod in all_pods:
        found[str((pod["metadata"].get("labels") or {}).get(f"{DOMAIN}/run"))].append(pod)
    for pods in found.values():
        pods.sort(key=lambda pod: (_index(pod), pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    return dict(found)


def _index(pod: Mapping[str, Any]) -> int:
    return int((pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", 0))


def _named(runs: Iterable[Run]) -> str:
    return f"{DOMAIN}/run in ({','.join(run.name for run in runs)})"


def _grave(status: Status | MlctlError, ending: states.Ending | None) -> bool:
    """Whether it takes more than a watch's word, as watches of Jobs and of pods don't keep step."""
    if isinstance(status, MlctlError):
        return True
    return ending is not None or (status.state.terminal and status.state is not State.SUCCEEDED)
