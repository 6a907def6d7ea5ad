"""Builds of pipelines, run by the stand-in for a controller in harness/, and jobs for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from behaviour import until
from mlctl import api
from mlctl.runs import Found, Key

PATIENCE = 120.0
STARTED = 1700000000000
COUNTED = 'echo start >> "$COUNT"; echo running; while [ ! -e "$GO" ]; do sleep 0.02; done; echo done; '
RESULT = 'echo \'{"name": "accuracy", "value": 0.5}\' > "$MLCTL_METRICS_FILE"; echo data > "$MLCTL_OUTPUT_DATA/file"; '


class Build:
    """A build that runs. `log` has its lines so far."""

    def __init__(self, words: list[str], spec: dict[str, Any], at: Path) -> None:
        self.spec, self.log = spec, []
        (at / "spec.json").write_text(json.dumps(spec))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            [*words, str(at / "spec.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "PATH": path}, cwd=at, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.log.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.log)

    def steps(self, label: str = "") -> list[int]:
        """The processes of the sh steps so far; of those with that label."""
        path = Path(self.spec["events"])
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [one["pid"] for one in events if one["step"] == "sh" and label in ("", one["label"])]

    def signal(self, number: int, step: int = -1) -> None:
        """To every process of a step, its shell included: they share what the agent marked them with."""

        def cookie(pid: str) -> bytes:
            try:
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                return b""
            return next((word for word in words if word.startswith(b"JENKINS_SERVER_COOKIE=")), b"")

        wanted = until(lambda: (found := self.steps()) and cookie(str(found[step])), "the step's process")
        for entry in Path("/proc").glob("[0-9]*"):
            if cookie(entry.name) == wanted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), number)

    def says(self, text: str) -> None:
        """Returns once a line of the log has `text`."""
        until(lambda: any(text in line for line in list(self.log)) or not self.reader.is_alive(), text)
        assert text in self.text, self.text

    def abort(self) -> None:
        """As a person does on the build's page."""
        assert self.process.stdin
        self.process.stdin.write("abort\n")
        self.process.stdin.flush()

    def end(self, result: str | None = None) -> dict[str, Any]:
        """The answer, once the build has ended; asserts its result."""
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        answer: dict[str, Any] = json.loads(Path(self.spec["answer"]).read_text())
        if result:
            assert answer["result"] == result, self.text
        return answer

    def kill(self) -> None:
        """Ends the build's processes, whatever they do; the test's own means of cleaning up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(PATIENCE)  # nobody is to read from what is closed
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Pipelines:
    """Starts builds; each in the same workspace, with the same number unless told another."""

    def __init__(self, words: list[str], library: Path, at: Path) -> None:
        self.words, self.library, self.at = words, library, at
        self.workspace, self.artifacts = at / "workspace", at / "artifacts"
        (self.workspace / ".git").mkdir(parents=True)
        self.builds: list[Build] = []

    def job(self, name: str = "job", **fields: Any) -> Path:
        """A job file in the workspace; JSON is YAML, too."""
        path = self.workspace / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps({"kind": "process", "name": Path(name).name, **fields}))
        return path

    def start(self, pipeline: str, number: int = 1, **spec: Any) -> Build:
        at = self.at / f"build-{len(self.builds)}"
        at.mkdir()
        (at / "Jenkinsfile").write_text(pipeline)
        tag = {"BUILD_TAG": f"jenkins-churn-{number}", "BUILD_NUMBER": str(number)}
        env = {**tag, "BUILD_URL": f"http://jenkins/job/churn/{number}/", "WORKSPACE": str(self.workspace)}
        full = {
            "library": str(self.library), "workspace": str(self.workspace), "artifacts": str(self.artifacts), "env": env,
            "jenkinsfile": str(at / "Jenkinsfile"), "state": str(at / "state.json"), "answer": str(at / "answer.json"),
            "events": str(at / "events"), "started": STARTED, "credentials": {}, **spec,
        }  # fmt: skip
        self.builds.append(Build(self.words, full, at))
        return self.builds[-1]

    def run(self, pipeline: str, result: str = "SUCCESS", **spec: Any) -> Build:
        build = self.start(pipeline, **spec)
        build.end(result)
        return build


class Counted:
    """A job that counts its starts, and goes on once it may."""

    def __init__(
        self, pipelines: Pipelines, end: str = "exit 0", go: bool = False, name: str = "job", **fields: Any
    ) -> None:
        self.starts, self.go = pipelines.at / f"{name}.starts", pipelines.at / f"{name}.go"
        env = {"COUNT": str(self.starts), "GO": str(self.go), **fields.pop("env", {})}
        command = {"shell": COUNTED + RESULT + end}
        self.path = pipelines.job(name, command=command, env=env, outputs={"data": {}}, **fields)
        if go:
            self.go.touch()

    @property
    def count(self) -> int:
        return self.starts.read_text().count("\n") if self.starts.exists() else 0

    def attempts(self, key: str = f"jenkins-churn-1@{STARTED}/a/job.yaml/0") -> list[Found]:
        """What the platform has of the job under the key: unless told otherwise, of the first call in a build's stage a."""
        execution = api.execution(self.path, key=key)
        return list(execution.backend.find(Key(key, execution.job.name)))


def small_jobs(pipelines: Pipelines) -> None:
    """Small jobs with the names, parameters, inputs and outputs of those that examples and pages speak of."""
    copy = 'cat "$MLCTL_INPUT_DATA/file" > "$MLCTL_OUTPUT_MODEL/file"; echo more >> "$MLCTL_OUTPUT_MODEL/file"'
    result = RESULT.replace("OUTPUT_DATA", "OUTPUT_MODEL")
    pipelines.job("jobs/process", command={"shell": RESULT}, outputs={"data": {}})
    pipelines.job(
        "jobs/train", kind="train", params={"lr": 0.1}, inputs={"data": {}}, outputs={"model": {}},
        command={"shell": result + copy},
    )  # fmt: skip
    pipelines.job(
        "jobs/batch-inference", kind="batch-inference", inputs={"data": {}, "model": {}}, outputs={"predictions": {}},
        command={"shell": 'cat "$MLCTL_INPUT_MODEL/file" > "$MLCTL_OUTPUT_PREDICTIONS/file"'},
    )  # fmt: skip
    (pipelines.workspace / "mlctl.yaml").write_text(json.dumps({"targets": {"prod": {"backend": "local"}}}))
