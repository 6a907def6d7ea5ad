"""What `mlctl image build` costs after a change of code alone, beside `docker build` of a good Dockerfile by hand.

    python bench/images.py [--quick]

On an engine of its own; they take turns, each with a change of its own before every build. Two more rows tell what no
command of mlctl's can go below, however it builds: an engine that takes in the finished layer, made before the clock runs,
and a Python that imports the libraries which read and check a job. Nothing is asserted. The figures go to the console, and
to bench/images.json when all was measured in full.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from measure import ROOT, Sample, about, keep, report, scratch, show, take_turns

sys.path.insert(0, str(ROOT / "tests/images"))
sys.path.insert(0, str(ROOT / "tools/services"))
import buildkit
import index
import services

MLCTL = str(Path(sys.executable).with_name("mlctl"))
FILES = 200  # of code, 10 KB each
BY_HAND = """\
FROM base:1
RUN mkdir -p /home/job /app && echo 'job:x:1000:0:job:/home/job:/bin/sh' >>/etc/passwd && chown 1000:0 /home/job /app
ENV HOME=/home/job PYTHONUNBUFFERED=1
COPY requirements.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=index \\
    PIP_INDEX_URL="$(cat /run/secrets/index)" python3 -m pip install -r /tmp/requirements.txt
WORKDIR /app
COPY --chown=1000:0 code .
USER 1000:0
"""


def project(folder: Path) -> Path:
    """One with a Dockerfile and a job of the same content."""
    python = "{}.{}".format(*sys.version_info[:2])
    files = {
        ".git/HEAD": "",
        "Dockerfile": BY_HAND,
        ".dockerignore": ".git\n",
        "requirements.txt": "tidings==1.0\n",
        "mlctl.yaml": "build: {base: 'base:1', network: host, secrets: {PIP_INDEX_URL: 'env:INDEX'}}\n",
        "job.yaml": f"kind: train\nname: bench\ncode: code\npython: '{python}'\n"
        "requirements: requirements.txt\ncommand: python m0.py\n",
        **{f"code/m{number}.py": f"# {number}\n" + "x = 1\n" * 1700 for number in range(FILES)},
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def changed(at: Path) -> None:
    """Another line in one of its files."""
    with (at / "code/m0.py").open("a") as file:
        file.write(f"y = {time.monotonic_ns()}\n")


def measured(words: list[str], at: Path) -> Iterator[Sample]:
    """How long the command takes there."""
    begin = time.perf_counter()
    done = subprocess.run(words, cwd=at, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    yield {"build_ms": (time.perf_counter() - begin) * 1000}


def added(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """A file of that content in the archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def finished(at: Path, below: str, into: Path) -> Path:
    """An archive for `docker load` with the layer of the project's code alone, over those of the image `below`, which the
    engine has."""
    found = subprocess.check_output(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", below])
    layers = json.loads(found)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as layer:
        layer.add(at / "code", "app")
    digest = f"sha256:{hashlib.sha256(stream.getvalue()).hexdigest()}"
    image = {"architecture": "amd64", "os": "linux", "config": {"WorkingDir": "/app"}, "history": []}
    image["rootfs"] = {"type": "layers", "diff_ids": [*layers, digest]}
    names = [*(f"{number}.tar" for number in range(len(layers))), "code.tar"]
    with tarfile.open(into, "w") as archive:
        added(archive, "image.json", json.dumps(image).encode())
        added(archive, "code.tar", stream.getvalue())
        told = [{"Config": "image.json", "RepoTags": ["loaded:1"], "Layers": names}]
        added(archive, "manifest.json", json.dumps(told).encode())
    return into


def main() -> None:
    """Measures, shows, keeps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with scratch() as folder, services.engine(buildkit.docker()) as variables:
        packages = index.Index()
        threading.Thread(target=packages.serve_forever, daemon=True).start()
        os.environ.update(variables, DOCKER_BUILDKIT="1", MLCTL_HOME=str(folder / "home"), INDEX=packages.url)
        services.base("base:1")
        one, other = project(folder / "mlctl"), project(folder / "hand")
        by_hand = ["docker", "build", "--network=host", "--platform=linux/amd64", "--secret=id=index,env=INDEX"]

        def built(words: list[str], at: Path) -> Iterator[Sample]:
            changed(at)
            return measured(words, at)

        def loaded() -> Iterator[Sample]:
            changed(other)
            return measured(["docker", "load", "-i", str(finished(other, "base:1", folder / "layer.tar"))], other)

        subjects = {
            "mlctl image build": lambda: built([MLCTL, "image", "build", "job.yaml"], one),
            "docker build, by hand": lambda: built([*by_hand, "-t", "hand:1", "."], other),
            "docker load, the layer made before": loaded,
            "python -c 'import click, yaml, jsonschema'": lambda: measured(
                [sys.executable, "-c", "import click, yaml, jsonschema"], one
            ),
        }
        table = take_turns(2 if quick else 10, subjects)
        version = subprocess.check_output(["docker", "version", "--format", "{{.Server.Version}}"], text=True).strip()
    show("after a change of code", table)
    if not quick:
        keep(ROOT / "bench/images.json", report(about({"docker": version}), {"code_change": table}))


if __name__ == "__main__":
    main()
