"""The launcher's image, built from its Dockerfile, a project's image on top of it, and a pipeline of the two."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import base_image
import pytest
from kfp import components, dsl, local
from kfp_containers import BIN, ROOT, keep_containers

IMAGE = "project:1"


@pytest.fixture(scope="module")
def launcher(engine: str) -> str:
    """The image's name."""
    import docker

    with contextlib.closing(docker.DockerClient(engine)) as client:
        base_image.make(client, "base")
        client.images.build(
            path=str(ROOT), dockerfile="integrations/kfp/Dockerfile", tag="mlctl-kfp:1", buildargs={"BASE": "base"},
            network_mode="host", rm=True,
        )  # fmt: skip
    return "mlctl-kfp:1"


@pytest.fixture
def image(launcher: str, engine: str, jobs: Path) -> Iterator[str]:
    """A project's, as the Dockerfile and the README say."""
    import docker

    (jobs / "Dockerfile").write_text(f"FROM {launcher}\nCOPY . /project\n")
    (jobs / "mlctl.yaml").write_text("targets: {here: {backend: local}}\nprofiles: {dev: [{target: here}]}\n")
    script = (
        "import pathlib, sys\npathlib.Path(sys.argv[1], 'model.json').write_text('{\"lr\": ' + sys.argv[2] + '}')\n"
    )
    (jobs / "code/train.py").write_text(script)
    (jobs / "jobs/train.yaml").write_text(
        "kind: train\nname: churn\ncode: ../code\nparams: {lr: 0.1}\noutputs: {model: {type: model}}\n"
        "command: python train.py ${{outputs.model}} ${{params.lr}}\n"
    )
    with contextlib.closing(docker.DockerClient(engine)) as client:
        client.images.build(path=str(jobs), tag=IMAGE, rm=True)
    undo = keep_containers()
    yield IMAGE
    undo()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pipeline_of_the_built_image(image: str, tmp_path: Path) -> None:
    """As another user than root, with nothing mounted but where KFP wants its artifacts."""
    subprocess.run(
        [BIN / "mlctl", "kfp", "components", tmp_path / "components", "--image", image], check=True, capture_output=True
    )
    train, predict = (
        components.load_component_from_file(str(tmp_path / f"components/{kind}.yaml"))
        for kind in ("train", "batch-inference")
    )
    told = {
        "pipeline_job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        "pipeline_task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
    }

    @dsl.pipeline
    def pipeline() -> dsl.Dataset:
        model = train(job="jobs/train.yaml", params={"lr": 0.25}, **told).outputs["model"]
        return predict(job="jobs/predict.yaml", input_model=model, **told).outputs["dataset"]

    root = tmp_path / "pipeline-root"
    root.mkdir()
    root.chmod(0o777)
    local.init(local.DockerRunner(network_mode="none"), pipeline_root=str(root))
    dataset = pipeline().output
    written = Path(dataset.path, "predictions.csv")
    assert written.read_text() == "lr,0.25\n"
    assert written.stat().st_uid == 1000 or os.getuid() == 1000
    (model,) = root.glob("*/train/model/model.json")
    assert json.loads(model.read_text()) == {"lr": 0.25}
