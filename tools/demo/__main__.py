"""`make demo-orchestrators`: the pipelines of examples/04-orchestrators, each in its orchestrator, and a table of what came of it.

python tools/demo [--changed] [airflow] [kfp] [prefect] [jenkins]

Each sets up what it needs. What a row lacks and nobody here may install, it says, and how to get it. With --changed they run
again, unchanged themselves, on a copy of the examples in which one file has another value of one parameter: every model is to be
another, and again the same in all. Runs and logs are kept in build/demo; exit code 1 where a pipeline failed, or a model is not
what it is to be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/services"))
import changed  # noqa: E402
import system  # noqa: E402

FOLDER = ROOT / "build/demo"
MLCTL = ROOT / ".venv/bin/mlctl"


@dataclass(frozen=True)
class Place:
    """The examples that the pipelines run, and where their logs are kept."""

    examples: Path
    logs: Path

    @property
    def pipelines(self) -> Path:
        """The folder of the four pipelines."""
        return self.examples / "04-orchestrators"


@dataclass(frozen=True)
class Row:
    """What came of one pipeline; `note` where it could not be run."""

    orchestrator: str
    run: str = ""
    state: str = ""
    metrics: str = ""
    digest: str = ""
    seconds: float = 0.0
    note: str = ""


def airflow(place: Place) -> list[list[str]]:
    """The DAG, by Airflow's own `dag.test()`."""
    python = str(ROOT / ".envs/airflow/bin/python")
    return [[python, "-m", "airflow", "db", "migrate"], [python, "airflow_dag.py"]]


def kfp(place: Place) -> list[list[str]]:
    """The pipeline, by `kfp.local` with Docker."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):  # then one of our own is started
        system.need("dockerd", "docker.io", "iptables")
        if os.getuid() != 0:
            raise system.Missing("a Docker engine that answers, or root to start one", "docker.io", "iptables")
    return [[str(ROOT / ".envs/kfp/bin/python"), str(Path(__file__).with_name("kfp_local.py"))]]


def prefect(place: Place) -> list[list[str]]:
    """The flow, on a temporary server of Prefect's own."""
    return [[str(ROOT / ".envs/prefect/bin/python"), "prefect_flow.py"]]


def jenkins(place: Place) -> list[list[str]]:
    """The Jenkinsfile and the shared library, in the Groovy that Jenkins has, on a stand-in for the controller."""
    system.need("java", "default-jre-headless")
    jar = _groovy()
    if jar is None:
        system.install("groovy")
        jar = _groovy()
    if jar is None:
        raise system.Missing("Groovy 2.4, the line that Jenkins has", "groovy")
    at = place.logs / "jenkins"
    tree, classes = at / "library", at / "classes"
    workspace = at / "workspace"
    classes.mkdir(parents=True)
    shutil.copytree(place.examples / "01-local", workspace, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(place.pipelines / "mlctl.yaml", workspace)
    build = {
        "BUILD_TAG": f"jenkins-digits-{time.time_ns()}",
        "BUILD_NUMBER": "1",
        "BUILD_URL": "http://jenkins/job/digits/1/",
    }
    spec = {
        "library": str(tree), "workspace": str(workspace), "artifacts": str(at / "artifacts"),
        "env": {**build, "WORKSPACE": str(workspace), "JOB_NAME": "digits"}, "jenkinsfile": str(place.pipelines / "Jenkinsfile"),
        "state": str(at / "state.json"), "answer": str(at / "answer.json"), "events": str(at / "events"),
        "started": int(time.time() * 1000), "credentials": {},
    }  # fmt: skip
    (at / "spec.json").write_text(json.dumps(spec))
    sources = [str(path) for path in sorted((ROOT / "tests/jenkins/harness").rglob("*.groovy"))]
    compiler = ["java", "-cp", str(jar), "org.codehaus.groovy.tools.FileSystemCompiler", "-d", str(classes), *sources]
    return [
        [str(ROOT / ".envs/jenkins/bin/python"), "-m", "mlctl_jenkins.library", str(tree)],
        compiler,
        ["java", "-cp", f"{jar}:{classes}", "harness.Build", str(at / "spec.json")],
    ]


def _groovy() -> Path | None:
    return max(Path("/usr/share/java").glob("groovy-all-2.4*.jar"), default=None)


PIPELINES: Mapping[str, Callable[[Place], list[list[str]]]] = {
    "airflow": airflow,
    "kfp": kfp,
    "prefect": prefect,
    "jenkins": jenkins,
}


def row(name: str, place: Place) -> Row:
    """Runs one pipeline to its end."""
    folder = place.logs / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLCTL_", "AIRFLOW_", "PREFECT_"))},
        "PATH": f"{ROOT / '.envs' / name / 'bin'}:{os.environ['PATH']}", "MLCTL_HOME": str(FOLDER / "home"),
        "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(place.pipelines),
        "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }  # fmt: skip
    log = folder / "log"
    try:
        subprocess.run([ROOT / "tools/env.sh", name], check=True)
        words = PIPELINES[name](place)
    except system.Missing as missing:
        return Row(name, note=str(missing))
    before, began = {one["run"] for one in _runs(env)}, time.monotonic()
    with log.open("wb") as stream:
        for command in words:
            began = time.monotonic()
            code = subprocess.run(
                command, cwd=place.pipelines, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            ).returncode
            if code:
                return Row(name, state="failed", note=f"exit code {code}: see {log.relative_to(ROOT)}")
    seconds = time.monotonic() - began
    made = [one for one in _runs(env) if one["run"] not in before]
    if not made:
        return Row(name, state="failed", note=f"no training was started: see {log.relative_to(ROOT)}")
    run = json.loads(_mlctl(env, "describe", made[0]["run"], "--json"))
    metrics = " ".join(f"{name}={value:.4f}" for name, value in run["metrics"].items())
    digest = changed.digest(Path(run["outputs"]["model"]))
    return Row(name, run["name"], run["status"]["state"], metrics, digest, seconds)


def _mlctl(env: Mapping[str, str], *words: str) -> str:
    return subprocess.run([MLCTL, *words], env=env, check=True, capture_output=True, text=True).stdout


def _runs(env: Mapping[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_mlctl(env, "list", "--job", "digits-train", "--limit", "100", "--json"))
    return found


def table(names: list[str], place: Place) -> list[Row]:
    """Runs the pipelines, and prints what came of each."""
    rows = []
    for name in names:
        print(f"{name}: {(PIPELINES[name].__doc__ or '').strip()}", flush=True)
        rows.append(row(name, place))
    head = ("ORCHESTRATOR", "RUN", "STATE", "METRICS", "MODEL (SHA256)", "SECONDS")
    cells = [head]
    for one in rows:
        took = f"{one.seconds:.1f}" if one.seconds else ""
        cells.append((one.orchestrator, one.run or one.note, one.state, one.metrics, one.digest, took))
    widths = [max(len(line[number]) for line in cells) for number in range(len(head))]
    print()
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(flush=True)
    return [one for one in rows if one.state]


def wrong(ran: list[Row], before: list[Row]) -> str:
    """What is not as it is to be in rows of the same jobs, where `before` are those before the change; empty if nothing is."""
    if any(one.state != "succeeded" for one in ran):
        return "a pipeline failed"
    if len({(one.metrics, one.digest) for one in ran}) > 1:
        return "the models differ"
    if {one.metrics for one in ran} & {one.metrics for one in before}:
        return "the change changed no metrics"
    if {one.digest for one in ran} & {one.digest for one in before}:
        return "the change changed no model"
    return ""


def main() -> int:
    """Runs the pipelines named, or all; prints the table."""
    words = [word for word in sys.argv[1:] if word != "--changed"]
    for word in words:
        if word not in PIPELINES:
            print(f"demo: got '{word}', expected --changed, {', '.join(PIPELINES)}", file=sys.stderr)
            return 2
    names = words or list(PIPELINES)
    ran = table(names, Place(changed.EXAMPLES, FOLDER))
    error = wrong(ran, [])
    if "--changed" in sys.argv and not error:
        try:
            examples = changed.copy(FOLDER / "changed")
        except ValueError as reason:
            print(f"demo: {reason}", file=sys.stderr)
            return 1
        print(f"the same pipelines; in a copy of {changed.FILE}, not '{changed.BEFORE}' but '{changed.AFTER}'")
        error = wrong(table(names, Place(examples, FOLDER / "changed")), ran)
    if error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"the same jobs, {len(ran)} orchestrators, one model")
    if "--changed" in sys.argv:
        print("another parameter in one file, and all of them have another model, the same one")
    else:
        print(f"another parameter in examples/{changed.FILE} changes all of them; --changed shows it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
