"""What a script written for SageMaker looks for: SM_* variables, and folders as under /opt/ml, in the run's folder.

So a train.py that says `os.environ["SM_CHANNEL_TRAIN"]` runs here unchanged. Source of the names: the README of
sagemaker-training, the toolkit inside SageMaker's framework images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlctl.contract import variable
from mlctl.job import Job

__all__ = ["add", "fill"]


def add(request: dict[str, Any], job: Job, at: str, folders: Sequence[str]) -> None:
    """Puts the layout into a plan's request: variables, and the folders and links to make. `folders` are the inputs
    that are one."""
    root = f"{at}/opt/ml"
    channels = {name: f"{root}/input/data/{name}" for name in job.inputs}
    models = [name for name, each in job.outputs.items() if each.type == "model"]
    model = request["outputs"][models[0]] if models else f"{root}/model"
    data = next(
        (path for name, path in request["outputs"].items() if name in ("output", "output-data")), f"{root}/output/data"
    )
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in request["params"].items()}
    links = {}
    for name, path in channels.items():
        source = request["inputs"][name]["at"]
        links[path if name in folders else f"{path}/{Path(source).name}"] = source
    if models:
        links[f"{root}/model"] = model
    accelerators = job.resources.accelerators
    request["layout"] = {"root": root, "links": links, "folders": [model, data], "hyperparameters": values}
    request["env"] = {
        **request["env"],
        **{f"SM_CHANNEL_{variable(name)}": path for name, path in channels.items()},
        **{f"SM_HP_{variable(name)}": value for name, value in values.items()},
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_HPS": json.dumps(request["params"]),
        "SM_MODEL_DIR": model,
        "SM_OUTPUT_DATA_DIR": data,
        "SM_OUTPUT_DIR": f"{root}/output",
        "SM_INPUT_DIR": f"{root}/input",
        "SM_INPUT_CONFIG_DIR": f"{root}/input/config",
        "SM_CHECKPOINT_DIR": request["env"]["MLCTL_CHECKPOINT_DIR"],
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_GPUS": str(accelerators.count if accelerators else 0),
        "SM_NUM_CPUS": str(os.cpu_count() or 1),
        "SM_MODULE_DIR": f"{at}/code",
        "TRAINING_JOB_NAME": request["env"]["MLCTL_RUN"].rpartition("/")[2],
    }


def fill(draft: Path, request: Mapping[str, Any]) -> None:
    """Makes the folders, the links and hyperparameters.json below `draft`, which is to become the run's folder."""
    at, layout = request["folder"], request["layout"]

    def inside(path: str) -> Path:
        return draft / os.path.relpath(path, at) if path.startswith(at + "/") else Path(path)

    for path in (
        f"{layout['root']}/input/config",
        f"{layout['root']}/input/data",
        f"{layout['root']}/output",
        *layout["folders"],
    ):
        inside(path).mkdir(parents=True, exist_ok=True)
    text = json.dumps(layout["hyperparameters"])
    inside(f"{layout['root']}/input/config/hyperparameters.json").write_text(text, encoding="utf-8")
    for link, source in layout["links"].items():
        place = inside(link)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
