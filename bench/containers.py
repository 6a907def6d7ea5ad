"""What a container costs by mlctl, beside plain `docker run` and the bare API, on the same engine.

    .envs/platforms/bin/python bench/containers.py [--quick]

Wants the engine that DOCKER_HOST names, else Docker's own, and `docker` on PATH:  eval "$(python tools/services env docker)".
One job at a time, the subjects by turns. The job notes its start and its end as files, whose times are the engine's machine's: so
the engine has to be on this one. Nothing is asserted; the figures go to the console, and in full to bench/containers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import docker
from measure import ROOT, Sample, about, keep, report, show, take_turns

from mlctl import backend, jobfile, lifecycle
from mlctl.backend import Settings
from mlctl.runs import Key

sys.path.insert(0, str(ROOT / "tools/services"))
import base_image

IMAGE = "mlctl-bench"
SCRIPT = "touch /out/began; sleep 0.2; touch /out/ended"
PATIENCE = 120.0
numbers = itertools.count(time.time_ns())


def times(at: Path, call: float, known: float) -> Sample:
    """What the job's own files say, between the call and the end of the wait, all in seconds since 1970."""
    began, ended = ((at / name).stat().st_mtime for name in ("began", "ended"))
    return {
        "call_to_start_ms": (began - call) * 1000,
        "end_to_known_ms": (known - ended) * 1000,
        "whole_ms": (known - call) * 1000,
    }


def by_mlctl(made: backend.Backend, **more: str) -> Iterator[Sample]:
    """`more` are more fields of the job."""
    script = SCRIPT.replace("/out", '"$MLCTL_OUTPUT_AT"')
    job = jobfile.load(
        {"kind": "process", "name": "bench", "command": {"shell": script}, "outputs": {"at": {}}, **more}
    )
    call = time.time()
    execution = lifecycle.Execution(job, made, made.settings, Key(str(next(numbers)), "bench"))  # type: ignore[attr-defined]
    outcome = execution.wait(execution.start(), PATIENCE)
    assert outcome.status and outcome.status.exit_code == 0, outcome
    known = time.time()
    yield times(Path(made.result(outcome.run).outputs["at"]), call, known)


def by_command(folder: Path) -> Iterator[Sample]:
    at = Path(tempfile.mkdtemp(dir=folder))
    call = time.time()
    words = ["docker", "run", "--name", f"bench-{next(numbers)}", "--network", "none", "-v", f"{at}:/out", IMAGE]
    subprocess.run([*words, "/bin/sh", "-c", SCRIPT], check=True, timeout=PATIENCE)
    yield times(at, call, time.time())


def by_api(api: docker.APIClient, folder: Path) -> Iterator[Sample]:
    at = Path(tempfile.mkdtemp(dir=folder))
    call = time.time()
    host = {"Binds": [f"{at}:/out"], "NetworkMode": "none"}
    body = {"Image": IMAGE, "Cmd": ["/bin/sh", "-c", SCRIPT], "HostConfig": host}
    container = api.create_container_from_config(body, f"bench-{next(numbers)}")["Id"]
    api.start(container)
    api.wait(container, timeout=PATIENCE)
    yield times(at, call, time.time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    options = parser.parse_args()
    if not shutil.which("docker"):
        raise SystemExit("bench: no docker on PATH, which is what mlctl is measured beside")
    folder = Path(tempfile.mkdtemp(prefix="mlctl-bench-"))
    code = folder / "code"
    code.mkdir()
    (code / "train.py").write_text("print('one file')\n")
    with contextlib.closing(docker.from_env()) as client:
        base_image.make(client, IMAGE)
        before = {one.id for one in client.containers.list(all=True)}
        made = backend.load("docker", Settings("bench", {"image": IMAGE, "network": "none"}, folder / "home"))
        try:
            subjects = {
                "docker run": lambda: by_command(folder),
                "create, start, wait by the API": lambda: by_api(client.api, folder),
                "mlctl": lambda: by_mlctl(made),
                "mlctl, with code": lambda: by_mlctl(made, code=str(code)),
            }
            table = take_turns(3 if options.quick else 30, subjects)
        finally:
            for one in client.containers.list(all=True):
                if one.id not in before:
                    one.remove(force=True, v=True)
            shutil.rmtree(folder, ignore_errors=True)
        show("one job, which takes 200 ms", table)
        engine = client.version()["Version"]
    if not options.quick:
        facts = about({"docker": version("docker"), "engine": engine})
        keep(ROOT / "bench/containers.json", report(facts, {"one job, which takes 200 ms": table}))


if __name__ == "__main__":
    main()
