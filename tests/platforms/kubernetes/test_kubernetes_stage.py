"""Inputs and outputs in an object store: fetched before the job and saved after it, by a container beside it; on a real cluster,
with an S3 that checks who asks."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from kubernetes_harness import KubernetesHarness, Place, Store, execution, with_target
from running import ended, log, status_of, until

from mlctl import lifecycle
from mlctl.backends.kubernetes import launch, stager
from mlctl.runs import Reason, State, Status

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def staged(place: Place, store: Store, tmp_path: Path) -> KubernetesHarness:
    """Stages, and keeps outputs in the store."""
    return with_target(place, tmp_path, stage=store.stage(), storage="s3://bucket/mlctl")


def below(address: str) -> str:
    return address.removeprefix("s3://bucket/")


def failure(harness: KubernetesHarness, **fields: Any) -> Status:
    made = execution(harness, **fields)
    status = ended(made.backend, made.start().run)
    assert status.state is State.FAILED
    return status


def test_inputs_are_fetched_and_outputs_saved(staged: KubernetesHarness, store: Store) -> None:
    for name, text in {"raw/a b.csv": "1", "raw/sub/c.csv": "2", "rawer/x": "no", "one.csv": "3"}.items():
        store.client.put_object(Bucket="bucket", Key=name, Body=text.encode())
    script = (
        'cd "$MLCTL_INPUT_RAW"; find . -type f | sort; cat "a b.csv" sub/c.csv "$MLCTL_INPUT_ONE"; echo; env | grep -c ^AWS || :;'
        'mkdir "$MLCTL_OUTPUT_MODEL/sub"; echo fitted >"$MLCTL_OUTPUT_MODEL/sub/model $(basename "$MLCTL_INPUT_ONE")"'
    )
    inputs = {"raw": "s3://bucket/raw", "one": "s3://bucket/one.csv"}
    made = execution(staged, command={"shell": script}, inputs=inputs, outputs={"model": {}})
    run = made.start().run
    assert ended(made.backend, run).state is State.SUCCEEDED
    assert log(made.backend, run) == ["./a b.csv", "./sub/c.csv", "123", "0"]  # and no credential
    address = made.backend.result(run).outputs["model"]
    assert store.names(f"{below(address)}/") == ["sub/model one.csv"]
    assert store.text(f"{below(address)}/sub/model one.csv") == "fitted\n"
    after = execution(staged, command={"shell": 'cat "$MLCTL_INPUT_MODEL"/sub/*'}, inputs={"model": address})
    run = after.start().run
    assert ended(after.backend, run).state is State.SUCCEEDED
    assert log(after.backend, run) == ["fitted"]


def test_output_that_cannot_be_saved_fails_the_run(staged: KubernetesHarness) -> None:
    script = 'echo x >"$MLCTL_OUTPUT_MODEL/x"'
    status = failure(staged, command={"shell": script}, outputs={"model": {"uri": "s3://no-such-bucket/models"}})
    assert status.reason is Reason.INFRA
    assert status.message.startswith("mlctl: an output could not be saved: s3://no-such-bucket/models/")
    assert "bucket does not exist" in status.message


def test_job_that_fails_saves_nothing(staged: KubernetesHarness, store: Store) -> None:
    made = execution(
        staged,
        command={"shell": 'echo x >"$MLCTL_OUTPUT_MODEL/x"; exit 7'},
        outputs={"model": {"uri": "s3://bucket/m"}},
    )
    run = made.start().run
    status = ended(made.backend, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 7)
    assert store.names(f"m/{run.name}") == []


def test_container_that_is_killed_is_waited_for_no_longer(staged: KubernetesHarness, store: Store) -> None:
    script = 'echo x >"$MLCTL_OUTPUT_MODEL/x"; echo up; sleep 600'
    made = execution(staged, command={"shell": script}, outputs={"model": {"uri": "s3://bucket/m"}})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    (pod,) = staged.pods(run)
    (own,) = (each for each in pod.status.container_statuses if each.name == "job")
    engine = ["docker", "-H", staged.place.cluster.engine.address]
    subprocess.run([*engine, "kill", own.container_id.removeprefix("docker://")], check=True, capture_output=True)
    status = ended(made.backend, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 137)
    assert store.names(f"m/{run.name}") == []


def test_input_that_is_not_there(staged: KubernetesHarness) -> None:
    status = failure(staged, inputs={"data": "s3://bucket/none"})
    assert status.reason is Reason.ERROR
    assert status.message == f"{stager.UNREADABLE}: s3://bucket/none: there is nothing"


def test_package_that_the_image_lacks_is_told_before_the_job_runs(staged: KubernetesHarness) -> None:
    status = failure(staged, command=["sleep", "600"], outputs={"model": {"uri": "gs://bucket/m"}})
    assert status.reason is Reason.IMAGE
    assert status.message.startswith(f"{stager.LACKING}: gs://bucket/m/")


def test_credential_that_is_wrong(place: Place, store: Store, tmp_path: Path) -> None:
    env = {**store.stage()["env"], "AWS_ACCESS_KEY_ID": store.credential["id"], "AWS_SECRET_ACCESS_KEY": "wrong"}
    harness = with_target(place, tmp_path, stage=store.stage(env=env, secrets={}), storage="s3://bucket/mlctl")
    store.client.put_object(Bucket="bucket", Key="one", Body=b"1")
    status = failure(harness, inputs={"data": "s3://bucket/one"})
    assert status.message.startswith("mlctl: an input ")
    assert "signature" in status.message


def test_cancel_ends_both_containers(staged: KubernetesHarness) -> None:
    made = execution(staged, command={"shell": "echo up; sleep 600"}, outputs={"model": {"uri": "s3://bucket/m"}})
    run = made.start().run
    until(lambda: log(made.backend, run) == ["up"])
    assert status_of(made.backend, run).state is State.RUNNING
    status = lifecycle.cancel(made.backend, run, 180)
    assert status
    assert status.state is State.CANCELLED
    until(lambda: all(pod.status.phase == "Failed" for pod in staged.pods(run)))


def test_image_without_a_shell_leaves_nobody_waiting(staged: KubernetesHarness) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tree:
        tree.add(__file__, "README")
    staged.place.cluster.load_image("mlctl-test/bare:1", archive.getvalue())
    made = execution(staged, image="mlctl-test/bare:1", outputs={"model": {"uri": "s3://bucket/m"}})
    status = ended(made.backend, made.start().run)
    assert (status.state, status.reason) == (State.FAILED, Reason.ERROR)
    assert "could not be started" in status.message


def test_name_that_leads_elsewhere_is_refused() -> None:
    assert stager.below("bucket/raw", "bucket/raw/a..b/c") == "a..b/c"
    with pytest.raises(stager.Failed, match="leads elsewhere"):
        stager.below("bucket/raw", "bucket/raw/../../etc/passwd")


def test_stager_says_what_the_launch_says() -> None:
    assert stager.UNSAVED == launch.UNSAVED
