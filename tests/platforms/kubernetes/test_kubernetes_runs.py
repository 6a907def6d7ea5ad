"""What goes wrong on a cluster, on a real one; and what mlctl leaves there, and may do there."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import RbacAuthorizationV1Api
from kubernetes_harness import DEFAULT, NAMESPACE, PYTHON, KubernetesHarness, Place, execution, with_target
from running import PATIENCE, ended, log, status_of, until

from mlctl import backend as backends
from mlctl import jobfile, lifecycle, watch
from mlctl.backend import Backend, Settings
from mlctl.backends.kubernetes import request, states
from mlctl.errors import InvalidConfig, RunNotFound, Unauthorized, Unavailable
from mlctl.policy import admit
from mlctl.runs import Reason, Run, State, Status
from mlctl.stage import stage

pytestmark = pytest.mark.timeout(600)

ROLE = Path(request.__file__).with_name("role.yaml")


def test_unknown_image_is_told_and_given_up(harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "STUCK", 3)
    made = execution(harness, image="127.0.0.1:1/no-such/image:1")
    run = made.start().run
    status = ended(made.backend, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.IMAGE)
    assert "no-such/image" in status.message
    assert harness.native(run).count == 1


def test_image_whose_name_is_none_fails_at_once(harness: KubernetesHarness) -> None:
    made = execution(harness, image="No Such")
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.IMAGE)


def test_unschedulable_says_why_then_fails(harness: KubernetesHarness) -> None:
    made = execution(harness, resources={"cpu": 4000}, queue_timeout="45s")
    run = made.start().run
    waiting = until(lambda: (status := status_of(made.backend, run)).message and status)
    assert waiting.state is State.QUEUED
    assert "Insufficient cpu" in waiting.message
    status = ended(made.backend, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.NO_CAPACITY)
    assert "Insufficient cpu" in status.message


def test_quota_is_told(place: Place, tmp_path: Path) -> None:
    name = f"quota-{time.time_ns()}"
    place.core.create_namespace({"metadata": {"name": name}})
    place.core.create_namespaced_resource_quota(name, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    until(lambda: place.core.read_namespaced_resource_quota("none", name).status.hard)
    try:
        made = execution(with_target(place, tmp_path, namespace=name, queue_timeout="45s"))
        status = ended(made.backend, made.start().run)
        assert (status.state, status.reason) == (State.FAILED, Reason.QUOTA)
        assert "exceeded quota: none" in status.message
    finally:
        place.core.delete_namespace(name)


def test_memory_beyond_the_limit(harness: KubernetesHarness) -> None:
    made = execution(
        harness, command=["python3", "-c", "x = bytearray(512 << 20); print(len(x))"], resources={"memory": "48Mi"}
    )
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.OOM)


@pytest.mark.parametrize("where", ["initContainers", "containers"])
def test_container_beside_the_job_that_fails(place: Place, tmp_path: Path, where: str) -> None:
    """As a mesh, or the target's template, puts one into the pod: that is not the job's own failure, and is named."""
    beside = {"name": "mesh", "image": place.image.format(python=DEFAULT), "command": ["sh", "-c", "exit 7"]}
    made = execution(with_target(place, tmp_path, template={"spec": {where: [beside]}}))
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
    assert status.message == "mesh, beside the job: Error, exit code 7"


def test_secret_that_is_not_there(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "STUCK", 3)
    harness = with_target(place, tmp_path, secrets={"TOKEN": "k8s-secret:none/token"})
    made = execution(harness, secrets=["TOKEN"])
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.ERROR)
    assert 'secret "none" not found' in status.message


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_pod_that_somebody_removes(harness: KubernetesHarness, how: str) -> None:
    script = 'echo ran >>"$MLCTL_CHECKPOINT_DIR/ran"; echo up; sleep 600'
    made = execution(harness, command={"shell": script})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    (pod,) = harness.pods(run)
    if how == "deleted":
        harness.place.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE)
    else:
        body = {"metadata": {"name": pod.metadata.name}}
        version = "policy/v1beta1" if harness.place.old else "policy/v1"
        whole = {**body, "apiVersion": version, "kind": "Eviction"}
        harness.place.core.create_namespaced_pod_eviction(pod.metadata.name, NAMESPACE, whole)
    status = ended(made.backend, run)
    expected = Reason.PREEMPTED if how == "evicted" and not harness.place.old else Reason.INFRA
    assert (status.state, status.reason) == (State.FAILED, expected)
    if harness.place.cluster:
        stem = run.name.rpartition("-")[0]
        assert (harness.place.volume / f"mlctl/runs/{stem}/checkpoints/ran").read_text() == "ran\n"


def test_node_that_is_drained_in_mid_run(harness: KubernetesHarness) -> None:
    if not harness.place.cluster:
        print("unproven: the nodes of another's cluster are not ours to drain")
        return
    core = harness.place.core
    made = execution(harness, command={"shell": 'echo ran >>"$MLCTL_CHECKPOINT_DIR/ran"; echo up; sleep 600'})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    core.patch_node("localhost", {"spec": {"unschedulable": True}})
    try:
        (pod,) = harness.pods(run)
        whole = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod.metadata.name}}
        core.create_namespaced_pod_eviction(pod.metadata.name, NAMESPACE, whole)
        waiting = until(lambda: "unschedulable" in (status := status_of(made.backend, run)).message and status)
        assert waiting.state is State.QUEUED  # this server makes another pod
    finally:
        core.patch_node("localhost", {"spec": {"unschedulable": False}})
    status = ended(made.backend, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
    assert "started before" in status.message
    assert harness.native(run).count == 1
    stem = run.name.rpartition("-")[0]
    assert (harness.place.volume / f"mlctl/runs/{stem}/checkpoints/ran").read_text() == "ran\n"


def test_disk_beyond_the_limit_is_the_jobs_own_fault(harness: KubernetesHarness) -> None:
    if harness.place.cluster:
        print("unproven here: a limit of disk; the kubelet of our own cluster sees no pod's disk")
        return
    script = "dd if=/dev/zero of=/mlctl/big bs=1M count=40; sleep 600"
    made = execution(harness, command={"shell": script}, resources={"disk": "8Mi"})
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.ERROR)
    assert "exceeds" in status.message


def test_logs_stay_after_a_cancel_and_a_timeout(harness: KubernetesHarness) -> None:
    script = "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.1; done"
    made = execution(harness, command={"shell": script})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    made.backend.cancel(run)
    assert ended(made.backend, run).state is State.CANCELLED
    assert log(made.backend, run) == ["up", "told"]
    late = execution(harness, command={"shell": script}, timeout="30s")
    run = late.start().run
    assert ended(late.backend, run).reason is Reason.TIMEOUT
    assert log(late.backend, run) == ["up", "told"]


def test_output_that_cannot_be_saved_fails_the_run(harness: KubernetesHarness) -> None:
    kept = "d=${MLCTL_RUN##*/}; d=/mnt/data/mlctl/runs/${d%-*}/0/outputs/model"
    script = f'{kept}; rm -r "$d"; touch "$d"; echo x >"$MLCTL_OUTPUT_MODEL/x"'
    made = execution(harness, command={"shell": script}, outputs={"model": {"mode": "upload"}})
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
    assert "could not be saved: model" in status.message


def test_code_inputs_and_python_arrive(harness: KubernetesHarness, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text(
        "import json, os, pathlib, sys\n"
        "data = pathlib.Path(os.environ['MLCTL_INPUT_DATA'])\n"
        "text = json.load(open(os.environ['MLCTL_PARAMS_FILE']))['text']\n"
        "print(text, sys.version_info[:2], (data / 'sub/a b.txt').read_text(), (data / 'big').stat().st_size)\n"
    )
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/sub/a b.txt").write_text("here")
    (tmp_path / "data/big").write_bytes(os.urandom(request.FILE_LIMIT))  # the most that is taken
    made = execution(
        harness, code=str(code), python=PYTHON, command="python3 main.py", params={"text": "$(HOME) $$ 'x'"},
        inputs={"data": str(tmp_path / "data")},
    )  # fmt: skip
    run = made.start().run
    assert ended(made.backend, run).state is State.SUCCEEDED
    version = tuple(map(int, PYTHON.split(".")))
    assert log(made.backend, run) == [f"$(HOME) $$ 'x' {version} here {request.FILE_LIMIT}"]
    # what it left is the next one's input
    made = execution(harness, command={"shell": 'echo 1 >"$MLCTL_OUTPUT_OUT/one"'}, outputs={"out": {}})
    run = made.start().run
    assert ended(made.backend, run).state is State.SUCCEEDED
    address = made.backend.result(run).outputs["out"]
    for mode in ("mount", "download"):
        made = execution(
            harness, command={"shell": 'cat "$MLCTL_INPUT_ONE/one"'}, inputs={"one": {"uri": address, "mode": mode}}
        )
        run = made.start().run
        assert ended(made.backend, run).state is State.SUCCEEDED
        assert log(made.backend, run) == ["1"]


def test_image_shared_memory_labels_and_tags(harness: KubernetesHarness) -> None:
    made = execution(
        harness, image=harness.place.image.format(python=PYTHON), command={"shell": "grep ' /dev/shm ' /proc/mounts; id -u"},
        resources={"shm": "80Mi", "cpu": 0.1}, labels={"team": "growth"}, tags=["nightly run"],
    )  # fmt: skip
    run = made.start().run
    assert ended(made.backend, run).state is State.SUCCEEDED
    assert log(made.backend, run)[0].startswith("tmpfs /dev/shm tmpfs")  # the engine's own is called shm
    job = harness.place.batch.read_namespaced_job(run.name, NAMESPACE)
    assert job.metadata.labels["team"] == "growth"
    assert json.loads(job.metadata.annotations["mlctl.io/tags"]) == ["nightly run"]
    assert [pod.metadata.labels["team"] for pod in harness.pods(run)] == ["growth"]


def test_server_that_restarts_in_mid_wait(harness: KubernetesHarness) -> None:
    own = harness.place.cluster
    if own is None:
        print("unproven: the API server of another's cluster is not ours to restart")
        return
    made = execution(harness, command={"shell": "echo up; sleep 15; echo down"})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    with ThreadPoolExecutor() as pool:
        seen = threading.Event()
        wait = pool.submit(watch.until_done, made.backend, run, PATIENCE, lambda _: seen.set())
        assert seen.wait(PATIENCE)
        own.stop("kube-apiserver")
        assert isinstance(made.backend.status([run])[run], Unavailable)
        own.start("kube-apiserver")
        status = wait.result()
    assert status
    assert status.state is State.SUCCEEDED
    assert harness.native(run).count == 1


def test_connection_that_breaks_and_token_that_expired(harness: KubernetesHarness) -> None:
    made = execution(harness, command={"shell": "sleep 600"})
    run = made.start().run
    with harness.inject("down"):
        assert isinstance(made.backend.status([run])[run], Unavailable)
    with harness.inject("expired"):
        error = made.backend.status([run])[run]
        assert isinstance(error, Unauthorized)
        assert "log in again" in str(error)
    status = lifecycle.cancel(made.backend, run, PATIENCE)
    assert status
    assert status.state is State.CANCELLED


def test_namespace_that_is_being_removed_is_no_lack_of_rights(place: Place, tmp_path: Path) -> None:
    name = f"going-{time.time_ns()}"
    place.core.create_namespace({"metadata": {"name": name}})
    place.core.create_namespaced_config_map(name, {"metadata": {"name": "held", "finalizers": ["example.org/held"]}})
    place.core.delete_namespace(name)
    try:
        made = execution(with_target(place, tmp_path, namespace=name))
        text = rf"^targets\.batch\.namespace: 403: .*{name} because it is being terminated; name another"
        with pytest.raises(InvalidConfig, match=text):
            made.start()
    finally:
        place.core.patch_namespaced_config_map("held", name, {"metadata": {"finalizers": None}})


def test_job_that_a_policy_denies_is_no_lack_of_rights(harness: KubernetesHarness) -> None:
    made = execution(harness)
    made.plan()
    with harness.inject("denied"), pytest.raises(InvalidConfig, match=r"denied the request: no team label$"):
        made.start()


def test_several_nodes_or_a_word_that_the_server_has_none(harness: KubernetesHarness) -> None:
    script = 'echo "$RANK of $WORLD_SIZE at ${MASTER_ADDR%%.*}"'
    made = execution(harness, command={"shell": script}, resources={"nodes": 2}, distribution={"type": "env"})
    run = made.start().run
    status = ended(made.backend, run)
    if harness.place.old:
        print("unproven here: Indexed Jobs; the server has none")
        assert (status.state, status.reason) == (State.FAILED, Reason.ERROR)
        assert "no spec.completionMode, and dropped it" in status.message
        assert not [line for line in log(made.backend, run) if " of 2" in line]
        return
    assert status.state is State.SUCCEEDED
    assert log(made.backend, run) == [f"{node}: {node} of 2 at {run.name}-0" for node in range(2)]


def test_queue_or_a_word_that_the_server_has_none(place: Place, tmp_path: Path) -> None:
    harness = with_target(place, tmp_path, queue="none")
    made = execution(harness)
    run = made.start().run
    if place.old:
        print("unproven here: suspended Jobs; the server has none")
        status = ended(made.backend, run)
        assert (status.state, status.reason) == (State.FAILED, Reason.ERROR)
        assert "no spec.suspend, and dropped it" in status.message
        return
    assert status_of(made.backend, run).state is State.QUEUED
    made.backend.cancel(run)
    assert ended(made.backend, run).state is State.CANCELLED


def _account(place: Place, tmp_path: Path, namespace: str, role: dict[str, Any]) -> tuple[KubernetesHarness, str]:
    """A target of an account that may do nothing yet, and its name, which is the role's too."""
    name = f"mlctl-{time.time_ns()}"
    role["metadata"]["name"] = name
    RbacAuthorizationV1Api(place.client).create_namespaced_role(namespace, role)
    place.core.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
    token = place.core.create_namespaced_service_account_token(
        name, namespace, {"spec": {"expirationSeconds": 3600}}
    ).status.token
    harness = with_target(place, tmp_path, namespace=namespace)
    path = Path(harness.values["kubeconfig"])
    config = json.loads(path.read_text())
    config["users"][0]["user"]["token"] = token
    path.write_text(json.dumps(config))
    return harness, name


def _bind(place: Place, namespace: str, name: str) -> None:
    """Gives the account of that name the role of that name."""
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    RbacAuthorizationV1Api(place.client).create_namespaced_role_binding(namespace, binding)


def test_role_is_enough_and_doctor_says_so(place: Place, tmp_path: Path) -> None:
    harness, name = _account(place, tmp_path, NAMESPACE, yaml.safe_load(ROLE.read_text()))
    refused = list(harness.make().check())
    assert [one.what for one in refused if one.ok] == ["cluster"]
    assert all(one.mend for one in refused if not one.ok)
    with pytest.raises(Unauthorized, match=r"docs/kubernetes\.md has the Role"):
        execution(harness).start()
    _bind(place, NAMESPACE, name)
    (tmp_path / "data.txt").write_text("1")
    made = execution(harness, command={"shell": "echo up; sleep 600"}, inputs={"data": str(tmp_path / "data.txt")})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    status = lifecycle.cancel(made.backend, run, PATIENCE)
    assert status
    assert status.state is State.CANCELLED
    made.backend.result(run)
    list(made.backend.prune(time.time() - 3600, dry=False))
    assert {one.what for one in made.backend.check() if not one.ok} <= {"version"}


def test_status_is_told_without_the_right_to_list_events(place: Place, tmp_path: Path) -> None:
    """Only why it waits isn't; and one that waits for too long is ended all the same."""
    namespace = f"blind-{time.time_ns()}"
    place.core.create_namespace({"metadata": {"name": namespace}})
    place.core.create_namespaced_resource_quota(
        namespace, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    until(lambda: place.core.read_namespaced_resource_quota("none", namespace).status.hard)
    role = yaml.safe_load(ROLE.read_text())
    role["rules"] = [rule for rule in role["rules"] if "events" not in rule["resources"]]
    harness, name = _account(place, tmp_path, namespace, role)
    _bind(place, namespace, name)
    try:
        made = execution(harness, queue_timeout="30s")
        run = made.start().run
        text = "why it waits can't be seen: the right to list events is lacking; docs/kubernetes.md has the Role that is needed"
        many = [run, *(dataclasses.replace(run, name=f"none-{number}") for number in range(100))]  # which a watch tells
        for runs in ([run], many):
            status = made.backend.status(runs)[run]
            assert isinstance(status, Status), status
            assert (status.state, status.message) == (State.QUEUED, text)
        findings = {one.what: one for one in made.backend.check() if not one.ok}
        assert findings.keys() - {"version"} == {"events"}
        assert "no right to list, watch" in findings["events"].text
        status = ended(made.backend, run)
        assert (status.state, status.reason) == (State.FAILED, Reason.NO_CAPACITY)
        assert status.message.endswith(f" s: {text}")
    finally:
        place.core.delete_namespace(namespace)


def test_what_a_run_needs_goes_with_its_job(harness: KubernetesHarness, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text(f"{time.time_ns()}")
    made = execution(harness, command={"shell": 'cat "$MLCTL_INPUT_DATA"'}, inputs={"data": str(tmp_path / "data.txt")})
    plan, (job, _, stamp) = made.plan(), made.prepare()
    stage(made.backend.put, plan.uploads)
    (name,) = {upload.address.rpartition("/")[2] for upload in plan.uploads}
    core = harness.place.core
    core.delete_namespaced_config_map(name, NAMESPACE)  # with another run's Job, in the meantime
    run = made.backend.submit(admit(job, plan), stamp)
    assert ended(made.backend, run).state is State.SUCCEEDED
    assert [owner.name for owner in core.read_namespaced_config_map(name, NAMESPACE).metadata.owner_references] == [
        run.name
    ]
    harness.place.batch.delete_namespaced_job(run.name, NAMESPACE, propagation_policy="Background")

    def gone() -> bool:
        return name not in {each.metadata.name for each in core.list_namespaced_config_map(NAMESPACE).items}

    until(gone)
    assert isinstance(made.backend.status([run])[run], RunNotFound)


def test_gc_removes_what_no_job_has(harness: KubernetesHarness, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text(f"{time.time_ns()}")
    made = execution(harness, inputs={"data": str(tmp_path / "data.txt")})
    stage(made.backend.put, made.plan().uploads)  # and its submitter died
    (name,) = {upload.address.rpartition("/")[2] for upload in made.plan().uploads}
    what = f"configmaps/{name} of namespace {NAMESPACE}"
    assert what not in list(made.backend.prune(time.time() - 3600, dry=False))
    assert what in list(made.backend.prune(time.time() + 3600, dry=True))
    assert name in {each.metadata.name for each in harness.place.core.list_namespaced_config_map(NAMESPACE).items}
    assert what in list(made.backend.prune(time.time() + 3600, dry=False))
    assert name not in {each.metadata.name for each in harness.place.core.list_namespaced_config_map(NAMESPACE).items}


def test_ended_job_is_removed_after_its_time(place: Place, tmp_path: Path) -> None:
    made = execution(with_target(place, tmp_path, ttl="3s"))
    run = made.start().run
    until(lambda: isinstance(made.backend.status([run])[run], RunNotFound))
    assert made.backend.find(made.key) == []


def test_many_runs_are_asked_for_at_once(harness: KubernetesHarness) -> None:
    made = [execution(harness) for _ in range(6)]
    runs = [one.start().run for one in made]
    for run in runs:
        assert ended(made[0].backend, run).state is State.SUCCEEDED
    asked = harness.place.proxy.asked
    asked.clear()
    answer = made[0].backend.status(runs)
    assert {status.state for status in answer.values() if isinstance(status, Status)} == {State.SUCCEEDED}
    assert [method for method, _ in asked] == ["GET", "GET"]


def test_setting_without_a_cluster_is_named(tmp_path: Path) -> None:
    made = backends.load("kubernetes", Settings("batch", {"kubeconfig": str(tmp_path / "none")}, tmp_path))
    with pytest.raises(InvalidConfig, match=r"targets\.batch\.kubeconfig: no way to a cluster"):
        made.resolve(jobfile.load({"kind": "process", "name": "x", "command": ["true"]}))


def test_clusters_behind_one_host_are_told_apart(place: Place, tmp_path: Path) -> None:
    """As a manager of clusters gives them out: one host, a path for each."""

    def at(path: str) -> Backend:
        values = place.target(tmp_path)
        kubeconfig = tmp_path / f"kubeconfig{path.replace('/', '-')}"
        kubeconfig.write_text(
            Path(values["kubeconfig"]).read_text().replace(place.proxy.url, f"{place.proxy.url}{path}")
        )
        return backends.load("kubernetes", Settings("batch", {**values, "kubeconfig": str(kubeconfig)}, tmp_path))

    one, other, plain = at("/k8s/clusters/a"), at("/k8s/clusters/b"), at("/")
    job = jobfile.load({"kind": "process", "name": "faults", "command": ["true"]})
    host = place.proxy.url.removeprefix("http://")
    account = str(one.resolve(job)["account"])
    assert account == f"{host}/k8s/clusters/a"
    run = Run.parse(str(Run("kubernetes", account, NAMESPACE, "faults-0")))
    assert (one.reaches(run), other.reaches(run)) == (True, False)
    assert plain.resolve(job)["account"] == host
