"""One cluster for all these tests: that of MLCTL_TEST_KUBECONFIG, with the image MLCTL_TEST_IMAGE (unless said,
python:{python}-slim), else one of our own on this machine."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

KUBECONFIG, IMAGE = (
    os.environ.get(f"MLCTL_TEST_{name}", "") for name in ("KUBECONFIG", "IMAGE")
)  # before they are unset

collect_ignore_glob = [] if find_spec("kubernetes") else ["*.py"]  # these tests have an environment of their own


@pytest.fixture(scope="session")
def place() -> Iterator[Any]:
    """The cluster, with a namespace, a Secret in it, and an image."""
    import kubernetes_harness as harness

    if KUBECONFIG:
        made = harness.Place(Path(KUBECONFIG), IMAGE or "python:{python}-slim", Path("/tmp/mlctl-test"))
        try:
            _furnish(made)
            yield made
        finally:
            made.close()
        return
    import base_image
    import cluster
    import system

    if not cluster.built():
        pytest.skip(
            "no programs of a Kubernetes server; tools/services/cluster.py builds them, in minutes; or set MLCTL_TEST_KUBECONFIG"
        )
    try:
        cluster.programs()
    except (system.Missing, RuntimeError) as reason:
        pytest.skip(f"{reason}; or set MLCTL_TEST_KUBECONFIG")
    (archive, changes), image = base_image.archive(), "mlctl-test/python:{python}"
    with (
        tempfile.TemporaryDirectory(prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        cluster.running(Path(folder, "c"), archive) as own,
    ):
        for python in {harness.PYTHON, harness.DEFAULT}:  # the default's is of this machine's Python, too
            own.load_image(image.format(python=python), archive, *changes)
        made = harness.Place(own.kubeconfig(), image, Path(folder, "volume"), own)
        try:
            _furnish(made)
            yield made
        finally:
            made.close()


def _furnish(made: Any) -> None:
    import kubernetes_harness as harness
    from kubernetes.client import ApiException

    token = base64.b64encode(harness.KubernetesHarness.secret.encode()).decode()
    try:
        made.core.create_namespace({"metadata": {"name": harness.NAMESPACE}})
        made.core.create_namespaced_secret(harness.NAMESPACE, {"metadata": {"name": "hub"}, "data": {"token": token}})
    except ApiException as reason:
        if reason.status != 409:
            raise


@pytest.fixture(scope="session")
def store(place: Any) -> Iterator[Any]:
    """An object store that pods reach, a Secret with a credential of it, and a stage image; of our own cluster only."""
    import base_image
    import kubernetes_harness as harness

    own = place.cluster
    if own is None:
        pytest.skip("pods of another's cluster reach no store of this machine")
    subprocess.run([ROOT / "tools/env.sh", "stage"], check=True)
    content, changes = base_image.archive()
    archive = io.BytesIO(content)
    with tarfile.open(fileobj=archive, mode="a") as tree:
        (packages,) = ROOT.glob(".envs/stage/lib/python*/site-packages")
        tree.add(packages, "stage")
    own.load_image(harness.STAGE, archive.getvalue(), *changes, "ENV PYTHONPATH=/stage")
    with harness.Store(f"{own.subnet}.1") as made:
        data = {name: base64.b64encode(value.encode()).decode() for name, value in made.credential.items()}
        place.core.create_namespaced_secret(harness.NAMESPACE, {"metadata": {"name": "store"}, "data": data})
        yield made


@pytest.fixture
def harness(place: Any, tmp_path: Path) -> Any:
    from kubernetes_harness import KubernetesHarness

    return KubernetesHarness(place, tmp_path / "home")
