"""`make demo-orchestrators`: the pipelines of examples/04-orchestrators, each in its orchestrator, and a table of what came of it.

python tools/demo [airflow] [kfp] [prefect] [jenkins]

Each sets up what it needs. What a row lacks and nobody here may install, it says, and how to get it. Runs and logs are kept
in build/demo; exit code 1 where a pipeline failed, or two of them left another model.
"""

from __future__ import annotations

import hashlib
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
import system  # noqa: E402

EXAMPLE = ROOT / "examples/04-orchestrators"
FOLDER = ROOT / "build/demo"
MLCTL = ROOT / ".venv/bin/mlctl"


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


def airflow() -> list[list[str]]:
    """The DAG, by Airflow's own `dag.test()`."""
    python = str(ROOT / ".envs/airflow/bin/python")
    return [[python, "-m", "airflow", "db", "migrate"], [python, "airflow_dag.py"]]


def kfp() -> list[list[str]]:
    """The pipeline, by `kfp.local` with Docker."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):  # then one of our own is started
        system.need("dockerd", "docker.io", "iptables")
        if os.getuid() != 0:
            raise system.Missing("a Docker engine that answers, or root to start one", "docker.io", "iptables")
    return [[str(ROOT / ".envs/kfp/bin/python"), str(Path(__file__).with_name("kfp_local.py"))]]


def prefect() -> list[list[str]]:
    """The flow, on a temporary server of Prefect's own."""
    return [[str(ROOT / ".envs/prefect/bin/python"), "prefect_flow.py"]]


def jenkins() -> list[list[str]]:
    """The Jenkinsfile and the shared library, in the Groovy that Jenkins has, on a stand-in for the controller."""
    system.need("java", "default-jre-headless")
    jar = _groovy()
    if jar is None:
        system.install("groovy")
        jar = _groovy()
    if jar is None:
        raise system.Missing("Groovy 2.4, the line that Jenkins has", "groovy")
    at, tree, classes = FOLDER / "jenkins", FOLDER / "jenkins/library", FOLDER / "jenkins/classes"
    workspace = at / "workspace"
    classes.mkdir(parents=True)
    shutil.copytree(EXAMPLE.parent / "01-local", workspace, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(EXAMPLE / "mlctl.yaml", workspace)
    build = {
        "BUILD_TAG": f"jenkins-digits-{time.time_ns()}",
        "BUILD_NUMBER": "1",
        "BUILD_URL": "http://jenkins/job/digits/1/",
    }
    spec = {
        "library": str(tree), "workspace": str(workspace), "artifacts": str(at / "artifacts"),
        "env": {**build, "WORKSPACE": str(workspace), "JOB_NAME": "digits"}, "jenkinsfile": str(EXAMPLE / "Jenkinsfile"),
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


PIPELINES: Mapping[str, Callable[[], list[list[str]]]] = {
    "airflow": airflow,
    "kfp": kfp,
    "prefect": prefect,
    "jenkins": jenkins,
}


def row(name: str) -> Row:
    """Runs one pipeline to its end."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLCTL_", "AIRFLOW_", "PREFECT_"))},
        "PATH": f"{ROOT / '.envs' / name / 'bin'}:{os.environ['PATH']}", "MLCTL_HOME": str(FOLDER / "home"),
        "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE),
        "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }  # fmt: skip
    log = folder / "log"
    try:
        subprocess.run([ROOT / "tools/env.sh", name], check=True)
        words = PIPELINES[name]()
    except system.Missing as missing:
        return Row(name, note=str(missing))
    before, began = {one["run"] for one in _runs(env)}, time.monotonic()
    with log.open("wb") as stream:
        for command in words:
            began = time.monotonic()
            code = subprocess.run(
                command, cwd=EXAMPLE, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            ).returncode
            if code:
                return Row(name, state="failed", note=f"exit code {code}: see {log.relative_to(ROOT)}")
    seconds = time.monotonic() - began
    made = [one for one in _runs(env) if one["run"] not in before]
    if not made:
        return Row(name, state="failed", note=f"no training was started: see {log.relative_to(ROOT)}")
    run = json.loads(_mlctl(env, "describe", made[0]["run"], "--json"))
    metrics = " ".join(f"{name}={value:.4f}" for name, value in run["metrics"].items())
    digest = _digest(Path(run["outputs"]["model"]))
    return Row(name, run["name"], run["status"]["state"], metrics, digest, seconds)


def _mlctl(env: Mapping[str, str], *words: str) -> str:
    return subprocess.run([MLCTL, *words], env=env, check=True, capture_output=True, text=True).stdout


def _runs(env: Mapping[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_mlctl(env, "list", "--job", "digits-train", "--limit", "100", "--json"))
    return found


def _digest(folder: Path) -> str:
    """sha256 of a folder's files, their names included."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def main() -> int:
    """Runs the pipelines named, or all; prints the table."""
    chosen = sys.argv[1:] or list(PIPELINES)
    for name in chosen:
        if name not in PIPELINES:
            print(f"demo: got '{name}', expected {', '.join(PIPELINES)}", file=sys.stderr)
            return 2
    rows = []
    for name in chosen:
        print(f"{name}: {(PIPELINES[name].__doc__ or '').strip()}", flush=True)
        rows.append(row(name))
    head = ("ORCHESTRATOR", "RUN", "STATE", "METRICS", "MODEL (SHA256)", "SECONDS")
    cells = [head]
    for one in rows:
        took = f"{one.seconds:.1f}" if one.seconds else ""
        cells.append((one.orchestrator, one.run or one.note, one.state, one.metrics, one.digest, took))
    widths = [max(len(line[number]) for line in cells) for number in range(len(head))]
    print()
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    ran = [one for one in rows if one.state]
    left = {(one.metrics, one.digest) for one in ran}
    if any(one.state != "succeeded" for one in ran):
        return 1
    if len(left) > 1:
        print("demo: the models differ", file=sys.stderr)
        return 1
    print(f"\nthe same jobs, {len(ran)} orchestrators, one model")
    print("another parameter in examples/01-local/jobs/train.yaml changes all of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
