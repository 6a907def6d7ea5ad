"""The contract of behaviour in KFP: whole pipelines, written, compiled and run by KFP itself (kfp.local).

Steps run in Docker's containers, but for the two promises in which a step is killed and its job must go on: a container
takes the local platform's job along, as a pod does, so there a step is a process of this machine (see run_pipeline.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from behaviour import (
    PATIENCE,
    PLUGIN,
    SECRET,
    TOKEN,
    BehaviourContract,
    Call,
    Ended,
    Harness,
    Started,
    promise_of,
    until,
)
from mlctl.runs import Reason, State, Status

SCRIPT = Path(__file__).with_name("run_pipeline.py")
STEP_IS_KILLED = ("adopt_after_crash", "late_cancel_of_an_old_owner")


class Kfp(Harness):
    """The launcher's component, `mlctl_kfp.step`."""

    native = False

    def __init__(self, folder: Path, home: Path, containers: bool, docker: Any) -> None:
        self.folder, self.home, self.containers, self.docker = folder, home, containers, docker
        self.root = folder.parent / "pipelines"
        self.root.mkdir()
        self.started: list[Pipeline] = []

    def start(self, call: Call) -> Started:
        pipeline = Pipeline(self, call)
        self.started.append(pipeline)
        return pipeline

    def working_folder(self) -> Path:
        """The step's."""
        return self.folder


class Native(Kfp):
    """`mlctl_kfp.component`. The image has the job's code; a run is its container."""

    native = True
    says_why = False

    def working_folder(self) -> Path:
        return self.folder / "code"

    def status(self, run: str) -> Status:
        state = self.docker.containers.get(run).attrs["State"]
        if state["Running"]:
            return Status(State.RUNNING)
        return {
            0: Status(State.SUCCEEDED),
            124: Status(State.FAILED, Reason.TIMEOUT),  # as timeout(1) says it
            137: Status(State.CANCELLED, Reason.CANCELLED),  # by SIGKILL, which nothing else here sends
        }.get(state["ExitCode"], Status(State.FAILED, Reason.ERROR))


class Pipeline(Started):
    """A pipeline's process. Its tasks' containers have its name as their label."""

    def __init__(self, harness: Kfp, call: Call) -> None:
        self.harness, self.call = harness, call
        self.name = f"pipeline-{len(harness.started)}"
        self.at = harness.root / self.name
        self.at.mkdir()
        calls = [call, *([call.then] if call.then else [])]
        traces = {str(harness.folder.parent / "traces"), str(harness.home), str(harness.folder)}
        asked = {
            "native": harness.native,
            "calls": [{**asdict(one), "job": str(one.job), "then": None} for one in calls],
            "retries": call.retries,
            "processes": "" if harness.containers else str(self.at / "pids"),
            "containers": {
                "folder": str(harness.working_folder()), "shared": sorted(traces), "labels": {"pipeline": self.name},
                "env": {"MLCTL_HOME": str(harness.home), "PYTHONPATH": str(PLUGIN), TOKEN: SECRET},
                # A run that has ended is read by this machine too; a native one is its container.
                **({} if harness.native else {"hostname": os.uname().nodename}),
            },
            "root": str(harness.root / "root"),
            "answer": str(self.at / "answer.json"),
        }  # fmt: skip
        (self.at / "asked.json").write_text(json.dumps(asked))
        with (self.at / "log").open("wb") as log:
            words = [sys.executable, "-u", "-W", "ignore", str(SCRIPT), str(self.at / "asked.json")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=harness.folder)

    def log(self) -> str:
        return (self.at / "log").read_text()

    def tries(self) -> int:
        return self.log().count("Executing task ")

    def kill(self) -> None:
        pid = (self.at / "pids").read_text().split()[-1]
        os.kill(int(pid), signal.SIGKILL)
        until(lambda: self.tries() == 2, "the next try")

    def cancel(self) -> None:
        """As Kubernetes ends a pod: SIGTERM; and SIGKILL a while later, for a first process that hears no SIGTERM."""
        (container,) = self.containers()
        if self.harness.native:
            container.stop(timeout=1)
        else:
            container.kill("SIGTERM")

    def containers(self, **options: Any) -> list[Any]:
        """The tasks' containers, newest first; running ones, unless `all`."""
        found: list[Any] = self.harness.docker.containers.list(filters={"label": f"pipeline={self.name}"}, **options)
        return found

    def ended(self) -> Ended:
        code = self.process.wait(PATIENCE)
        if code:
            return Ended(False, self.log(), self.tries())
        answer = json.loads((self.at / "answer.json").read_text())
        if self.harness.native:
            answer["run"] = self.containers(all=True)[0].short_id
        return Ended(True, self.log(), self.tries(), **answer)

    def rerun(self) -> Started:
        return self.harness.start(self.call)

    def end(self) -> None:
        """Leaves nothing running."""
        self.process.kill()
        self.process.wait()
        if self.harness.containers:
            for container in self.containers(all=True):
                container.remove(force=True)
        elif (self.at / "pids").exists():
            for pid in (self.at / "pids").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


class TestBehaviour(BehaviourContract):
    column = "kfp"
    made = Kfp

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, engine: str, project: Path, home: Path) -> Iterator[Harness]:
        import docker

        containers = promise_of(request.node.originalname) not in STEP_IS_KILLED
        (project.parent / "traces").mkdir()
        with contextlib.closing(docker.DockerClient(engine)) as client:
            made = self.made(project, home, containers, client)
            yield made
            for pipeline in made.started:
                pipeline.end()


class TestNativeBehaviour(TestBehaviour):
    column = "kfp-native"
    made = Native
