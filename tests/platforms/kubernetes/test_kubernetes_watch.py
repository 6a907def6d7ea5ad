"""Waiting for many runs: one watch, what it costs, and how it breaks; on a real server."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import pytest
from kubernetes_harness import NAMESPACE, KubernetesHarness, execution
from running import ended, status_of, until

from mlctl.backends.kubernetes import api, mirror, polling
from mlctl.backends.kubernetes.api import Api, Expired
from mlctl.errors import RunNotFound
from mlctl.runs import Reason, State, Status

pytestmark = pytest.mark.timeout(600)


def test_pause_is_cut_short_by_a_change(harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    made = execution(harness, command=["sleep", "5"])
    run, backend = made.start().run, made.backend
    until(lambda: status_of(backend, run).state is State.RUNNING)
    began = time.monotonic()
    backend.pause([run], 120)
    assert status_of(backend, run).state is State.SUCCEEDED
    assert time.monotonic() - began < 60
    backend.status([run])
    began = time.monotonic()
    backend.pause([run], 2)  # nothing changes any more
    assert time.monotonic() - began >= 2
    with harness.inject("down"):
        began = time.monotonic()
        backend.pause([run], 2)
        assert time.monotonic() - began >= 2


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single run is many."""
    monkeypatch.setattr(polling, "_NAMED", 1)


@pytest.mark.usefixtures("many")
def test_many_runs_are_one_list_and_one_watch(harness: KubernetesHarness) -> None:
    made = [execution(harness, command=["sleep", "5"]) for _ in range(5)]
    runs = [one.start().run for one in made]
    backend, asked = made[0].backend, harness.place.proxy.asked
    asked.clear()

    def states() -> set[State]:
        return {status.state for status in backend.status(runs).values() if isinstance(status, Status)}

    until(lambda: states() == {State.SUCCEEDED})
    lists = [path.partition("?")[0].rpartition("/")[2] for _, path in asked if "watch=true" not in path]
    watches = [path.partition("?")[0].rpartition("/")[2] for _, path in asked if "watch=true" in path]
    assert [lists.count(kind) for kind in ("jobs", "pods")] == [1, 1]
    assert [watches.count(kind) for kind in ("jobs", "pods")] == [1, 1]
    asked.clear()
    for _ in range(10):
        assert states() == {State.SUCCEEDED}
    assert asked == []


@pytest.mark.usefixtures("many")
def test_end_that_is_bad_is_looked_up(harness: KubernetesHarness) -> None:
    made = [execution(harness, command={"shell": f"sleep 3; exit {code}"}) for code in (0, 3)]
    good, bad = (one.start().run for one in made)
    backend = made[0].backend
    until(lambda: all(one.state.terminal for one in backend.status([good, bad]).values()))  # type: ignore[union-attr]
    answer = backend.status([good, bad])
    status = answer[bad]
    assert isinstance(status, Status)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 3)
    harness.place.batch.delete_namespaced_job(bad.name, NAMESPACE, propagation_policy="Background")
    until(lambda: isinstance(backend.status([good, bad])[bad], RunNotFound))
    assert backend.status([good, bad])[good].state is State.SUCCEEDED  # type: ignore[union-attr]


@pytest.mark.usefixtures("many")
def test_watch_that_goes_quiet_is_broken_in_time(harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LASTS", 3)
    monkeypatch.setattr(mirror, "SILENT", 2)
    made = [execution(harness, command={"shell": "echo up; sleep 6"}) for _ in range(2)]
    runs = [one.start().run for one in made]
    backend = made[0].backend
    until(lambda: {one.state for one in backend.status(runs).values()} == {State.RUNNING})  # type: ignore[union-attr]
    with harness.inject("quiet"):
        until(lambda: not any(harness.native(run).alive for run in runs))
        until(lambda: {one.state for one in backend.status(runs).values()} == {State.SUCCEEDED})  # type: ignore[union-attr]


@pytest.mark.usefixtures("many")
def test_watch_that_ends_as_it_begins_is_not_asked_for_again_and_again(harness: KubernetesHarness) -> None:
    """As through a proxy that passes no streams on: each look is a list then, and nothing goes on between two."""
    made = [execution(harness, command=["sleep", "5"]) for _ in range(2)]
    runs = [one.start().run for one in made]
    backend, asked = made[0].backend, harness.place.proxy.asked
    with harness.inject("short"):
        backend.status(runs)
        asked.clear()
        time.sleep(2)
        assert len([path for _, path in asked if "watch=true" in path]) <= 3  # of Jobs, of pods, of warnings
        until(lambda: {one.state for one in backend.status(runs).values()} == {State.SUCCEEDED})  # type: ignore[union-attr]


@pytest.mark.usefixtures("many")
def test_version_that_is_too_old_is_listed_anew(harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    if own := harness.place.cluster:  # whose server remembers all since it began
        own.stop("kube-apiserver")
        own.start("kube-apiserver")
        own.until("kube-apiserver", own.answers)
    made = [execution(harness, command=["sleep", "3"]) for _ in range(2)]
    runs = [one.start().run for one in made]
    backend = made[0].backend
    server: Api = backend._api  # type: ignore[attr-defined]
    with pytest.raises(Expired):
        list(server.changes("jobs", NAMESPACE, "", "", "1", 5, 10))
    listed, versions = Api.snapshot, iter(["1", "1"])

    def old(self: Api, *what: Any, **more: Any) -> tuple[list[dict[str, Any]], str]:
        things, version = listed(self, *what, **more)
        return things, next(versions, version)

    monkeypatch.setattr(Api, "snapshot", old)
    until(lambda: {one.state for one in backend.status(runs).values()} == {State.SUCCEEDED})  # type: ignore[union-attr]
    assert next(versions, None) is None


def test_page_that_is_too_old_is_listed_anew(harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    own = harness.place.cluster
    if own is None:
        print("unproven: the store of another's cluster is not ours to compact")
        return
    made = [execution(harness) for _ in range(3)]
    for one in made:
        assert ended(one.backend, one.start().run).state is State.SUCCEEDED
    backend = made[0].backend
    server: Api = backend._api  # type: ignore[attr-defined]
    whole = [job["metadata"]["name"] for job in server.listed("jobs", NAMESPACE)]
    monkeypatch.setattr(api, "PAGE", 2)
    call, answers = Api.call, []

    def compacted(self: Api, method: str, path: str, *words: Any, **query: Any) -> dict[str, Any]:
        try:
            answer = call(self, method, path, *words, **query)
        except Expired as reason:
            answers.append(reason)
            raise
        if not answers:
            answers.append(None)
            body = {"metadata": {"name": f"made-{time.time_ns()}"}}
            version = harness.place.core.create_namespaced_config_map(NAMESPACE, body).metadata.resource_version
            asked = urllib.request.Request(f"http://127.0.0.1:{own.etcd}/v3/kv/compaction", method="POST")
            with urllib.request.urlopen(
                asked, json.dumps({"revision": version, "physical": True}).encode(), timeout=60
            ):
                pass
        return answer

    monkeypatch.setattr(Api, "call", compacted)
    assert [job["metadata"]["name"] for job in server.listed("jobs", NAMESPACE)] == whole
    assert isinstance(answers[1], Expired)
    assert status_of(backend, made[0].start().run).state is State.SUCCEEDED
