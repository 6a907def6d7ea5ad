"""Pipelines run by a stand-in for the controller, in the Groovy that Jenkins has, with the library as Jenkins loads it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
JARS = [Path("/usr/share/java/groovy-all-2.4.21.jar"), Path("/usr/share/java/groovy-all.jar")]
PATIENCE = 60.0
LEAN = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx256m"]


def until(what: Callable[[], Any], text: str = "", patience: float = PATIENCE) -> Any:
    """What `what` answers once it is true."""
    deadline = time.monotonic() + patience
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {patience} s for {text or what}"
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session")
def groovy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that start a build: java, with the harness compiled."""
    jar = next((one for one in JARS if one.exists()), None)
    java = shutil.which("java")
    if not jar or not java:
        pytest.skip("needs Groovy 2.4, the line that Jenkins has, and a Java: apt-get install groovy")
    classes = tmp_path_factory.mktemp("classes")
    sources = [str(path) for path in sorted((HERE / "harness").rglob("*.groovy"))]
    compiler = ["-cp", str(jar), "org.codehaus.groovy.tools.FileSystemCompiler", "-d", str(classes), *sources]
    done = subprocess.run([java, *LEAN, *compiler], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [java, *LEAN, "-cp", f"{jar}:{classes}", "harness.Build"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is shipped."""
    tree = tmp_path_factory.mktemp("library") / "tree"
    subprocess.run([sys.executable, "-m", "mlctl_jenkins.library", str(tree)], check=True)
    return tree


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

    @property
    def events(self) -> list[dict[str, Any]]:
        path = Path(self.spec["events"])
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def steps(self) -> list[int]:
        """The processes of the sh steps so far."""
        return [event["pid"] for event in self.events if event["step"] == "sh"]

    def says(self, text: str) -> None:
        """Returns once a line of the log has `text`."""
        until(lambda: any(text in line for line in list(self.log)) or self.process.poll() is not None, text)
        assert text in self.text, self.text

    def abort(self) -> None:
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
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Pipelines:
    """Starts builds; each in the same workspace, with the same number unless told another."""

    def __init__(self, words: list[str], library: Path, at: Path) -> None:
        self.words, self.library, self.at = words, library, at
        self.workspace = at / "workspace"
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
            "events": str(at / "events"), "started": 1700000000000, "credentials": {}, **spec,
        }  # fmt: skip
        self.builds.append(Build(self.words, full, at))
        return self.builds[-1]

    def run(self, pipeline: str, result: str = "SUCCESS", **spec: Any) -> Build:
        build = self.start(pipeline, **spec)
        build.end(result)
        return build

    @property
    def artifacts(self) -> Path:
        return self.at / "artifacts"


@pytest.fixture
def pipelines(groovy: list[str], library: Path, tmp_path: Path) -> Iterator[Pipelines]:
    made = Pipelines(groovy, library, tmp_path)
    yield made
    for build in made.builds:
        build.kill()
