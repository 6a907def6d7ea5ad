"""A step of a component as a process: compiled, loaded and resolved by KFP itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_containers import BIN, ROOT

from behaviour import PATIENCE

COMPONENTS = ROOT / "integrations/kfp/components"

TRAIN = """\
kind: train
name: churn
code: ../code
command: python train.py --lr ${{params.lr}} --out ${{outputs.model}} --mode ${{params.mode}} --note ${{params.note}}
params: {lr: 0.1, mode: ok, note: "", extra: {type: object, default: {}}}
outputs: {model: {type: model}}
"""
SCRIPT = """\
import json, os, pathlib, sys, time
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out, mode, here = pathlib.Path(args["--out"]), args["--mode"], pathlib.Path(os.environ["TRACES"])
with open(here / "starts", "a") as stream:
    stream.write(os.environ["MLCTL_RUN"] + "\\n")
print("training at", args["--lr"], flush=True)
attempt = int(os.environ["MLCTL_RUN"].rpartition("-")[2])
if mode == "fail" or (mode == "flaky" and attempt == 0):
    sys.exit(3)
if mode == "preempted" and attempt == 0:
    os.kill(os.getppid(), 9)
if mode == "secret":
    print("the token is", os.environ["TOKEN"], flush=True)
if mode == "wait":
    while not (here / "go").exists():
        time.sleep(0.02)
(out / "model.json").write_text(json.dumps({"lr": float(args["--lr"]), "note": args["--note"],
    "params": json.load(open(os.environ["MLCTL_PARAMS_FILE"]))}))
with open(os.environ["MLCTL_METRICS_FILE"], "a") as stream:
    stream.write(json.dumps({"name": "accuracy", "value": 0.9, "step": 1}) + "\\n")
    stream.write(json.dumps({"name": "loss", "value": float("nan"), "step": 1}) + "\\n")
"""
PREDICT = """\
kind: batch-inference
name: churn-predict
code: ../code
command: python predict.py ${{inputs.model}} ${{outputs.predictions}}
inputs: {model: {type: model}, data: {type: dataset, uri: ../code}}
outputs: {predictions: {}}
"""
PREDICT_SCRIPT = """\
import json, pathlib, sys
model = json.loads(pathlib.Path(sys.argv[1], "model.json").read_text())
pathlib.Path(sys.argv[2], "predictions.csv").write_text(f"lr,{model['lr']}\\n")
"""


def starts(traces: Path) -> list[str]:
    """The URL of each attempt that really started, in order."""
    try:
        return (traces / "starts").read_text().split()
    except FileNotFoundError:
        return []


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Returns as soon as `true()` is; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass
class Ended:
    """A step that is over: what it said, and what KFP reads from it."""

    code: int
    log: str
    errors: str
    outputs: dict[str, Any]


class Step:
    """One try of a step, as a process."""

    def __init__(self, words: list[str], outputs: Callable[[], dict[str, Any]], cwd: Path) -> None:
        self._outputs = outputs
        env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        """kill -9, of the step alone."""
        self.process.kill()
        self.process.communicate()

    def terminate(self) -> None:
        """What Kubernetes sends to a pod that is to end."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> Ended:
        """Waits for the step's own end."""
        log, errors = self.process.communicate(timeout=PATIENCE)
        return Ended(self.process.returncode, log, errors, self._outputs() if self.process.returncode == 0 else {})


class Steps:
    """Steps of one run of a pipeline."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root, self.started = folder, root, []

    def start(self, arguments: Mapping[str, Any], kind: str = "train", run: str = "run-1", task: str = "train") -> Step:
        """Starts a try of a task of the component of `kind`: compiled, loaded and resolved by KFP itself."""
        from kfp import components, dsl

        told = {
            "pipeline_job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            "pipeline_task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
        }
        loaded = components.load_component_from_file(str(COMPONENTS / f"{kind}.yaml"))
        return self.resolved(loaded, {**told, **arguments}, run, task)

    def resolved(self, loaded: Any, arguments: Mapping[str, Any], run: str = "run-1", task: str = "train") -> Step:
        """Starts a loaded component's command, its placeholders resolved as KFP's local executor does."""
        from kfp.local import executor_input_utils, executor_output_utils, placeholder_utils, utils

        ((_, component),) = loaded.pipeline_spec.components.items()
        executor = loaded.pipeline_spec.deployment_spec["executors"][component.executor_label]
        container = utils.struct_to_executor_spec(executor).container
        task_root = self.root / run / task
        given = executor_input_utils.construct_executor_input(
            component_spec=component,
            arguments=dict(arguments),
            task_root=str(task_root),
            block_input_artifact=False,
        )
        words = placeholder_utils.replace_placeholders(
            full_command=[*container.command, *container.args],
            executor_input_dict=executor_input_utils.executor_input_to_dict(given, component),
            pipeline_resource_name="pipeline",
            task_resource_name=task,
            pipeline_root=str(self.root),
            unique_pipeline_id=run,
        )
        step = Step(words, lambda: executor_output_utils.get_outputs_for_task(given, component), self.folder)
        self.started.append(step)
        return step

    def run(self, arguments: Mapping[str, Any], **options: str) -> Ended:
        """A try of a task, to its end."""
        return self.start(arguments, **options).end()


def read(path: str) -> Any:
    """What a JSON file holds."""
    return json.loads(Path(path).read_text())
