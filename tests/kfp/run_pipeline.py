"""One pipeline in a process of its own, as `python pipeline.py` is: written, compiled and run by KFP.

python run_pipeline.py ASKED.json      # Pipeline of test_behaviour.py wrote it; prints kfp.local's log, writes the answer

KFP's cache is on, as it is on a server.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl, local
from kfp.local import docker_task_handler, status
from kfp_containers import containers, keep_containers

import mlctl_kfp


class Process:
    """Runs a step as a process of this machine, in a container's place. Its job's process is then not in the step's
    container, and outlives a step that is killed: as on any platform but `local`."""

    pids: Path

    def __init__(self, image: str, full_command: list[str], pipeline_root: str, runner: Any, env_vars: Any) -> None:
        self.words, self.env, self.folder = full_command, env_vars, runner.container_run_args["working_dir"]

    def run(self) -> status.Status:
        with subprocess.Popen(
            self.words, env=self.env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            with self.pids.open("a") as pids:
                pids.write(f"{process.pid}\n")
            for line in process.stdout or ():
                print(line, end="", flush=True)
        return status.Status.FAILURE if process.returncode else status.Status.SUCCESS


def launched(asked: dict[str, Any]) -> Any:
    """A pipeline of the launcher's components."""

    class Outputs(NamedTuple):
        model: dsl.Model
        metrics: dsl.Metrics
        run: str

    @dsl.pipeline(name="probe")
    def pipeline() -> Outputs:
        task, given = None, {}
        for call in asked["calls"]:
            task = mlctl_kfp.step("train", job=call["job"], params=call["params"], target=call["target"], **given)
            task.set_retry(asked["retries"], backoff_duration="0s")
            given = {"input_model": task.outputs["model"]}
        return Outputs(task.outputs["model"], task.outputs["metrics"], task.outputs["run"])

    return pipeline


def native(asked: dict[str, Any]) -> Any:
    """A pipeline of jobs as native steps."""
    steps = [mlctl_kfp.component(call["job"], image="mlctl-kfp:latest") for call in asked["calls"]]

    class Outputs(NamedTuple):
        model: dsl.Model
        metrics: dsl.Artifact

    @dsl.pipeline(name="probe")
    def pipeline() -> Outputs:
        task, given = None, {}
        for step, call in zip(steps, asked["calls"], strict=True):
            task = step(**call["params"], **given).set_retry(asked["retries"], backoff_duration="0s")
            given = {"before": task.outputs["model"]}
        return Outputs(task.outputs["model"], task.outputs["metrics"])

    return pipeline


def main(path: Path) -> None:
    asked = json.loads(path.read_text())
    keep_containers()
    if asked["processes"]:
        Process.pids = Path(asked["processes"])
        docker_task_handler.DockerTaskHandler = Process
    local.init(containers(**asked["containers"]), pipeline_root=asked["root"], enable_caching=True)
    outputs = (native if asked["native"] else launched)(asked)().outputs
    metrics = outputs["metrics"]
    answer = {"run": outputs.get("run", ""), "outputs": {"model": outputs["model"].path}, "metrics": metrics.metadata}
    if asked["native"]:
        points = map(json.loads, Path(metrics.path).read_text().splitlines())
        answer["metrics"] = {point["name"]: point["value"] for point in points}
    Path(asked["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
