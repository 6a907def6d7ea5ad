"""`mlctl image build|push` and `build: auto` with a real engine, a real registry, and pip behind a password."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from index import PASSWORD, Index

from mlctl import api, config
from mlctl.backends.local import Local
from mlctl.builder import Docker
from mlctl.command import Command
from mlctl.errors import Interrupted
from mlctl.image import Build
from mlctl.job import Job
from mlctl.runs import Plan

PYTHON = "{}.{}".format(*sys.version_info[:2])
SCRIPT = (
    "import json, os, tidings\nprint(json.dumps([tidings.VERSION, os.getuid(), os.getcwd(), os.environ['HOME']]))\n"
)

Mlctl = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path, base_image: str, index: Index, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a job that wants a package of the private index, and a file that no image should have."""
    monkeypatch.setenv("INDEX", index.url)
    made = tmp_path / "project"
    files = {
        ".git/HEAD": "",
        "mlctl.yaml": f"build: {{base: '{base_image}', network: host, secrets: {{PIP_INDEX_URL: 'env:INDEX'}}}}\n",
        "jobs/train.yaml": f"kind: train\nname: churn\ncode: ../code\npython: '{PYTHON}'\nrequirements: ../requirements.txt\n"
        "params: {lr: {type: number}}\ncommand: python train.py\n",
        "requirements.txt": "tidings==1.0\n",
        "code/train.py": SCRIPT,
        "code/.env": f"TOKEN={PASSWORD}\n",
        "code/.gitignore": "data/\n",
        "code/data/large.bin": PASSWORD,
    }
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


@pytest.fixture
def mlctl(project: Path) -> Mlctl:
    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("mlctl")), *words]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def _docker(*words: str) -> str:
    return subprocess.check_output(["docker", *words], text=True)


def _layers(image: str) -> list[str]:
    return list(json.loads(_docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)))


def _contents(image: str) -> dict[str, bytes]:
    """Every file of every layer of the saved image, and what it says of itself."""
    found: dict[str, bytes] = {}

    def read(data: bytes, at: str) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    content = file.read()
                    found[f"{at}{member.name}"] = content
                    if member.name.endswith("layer.tar"):
                        read(content, f"{at}{member.name}/")

    read(subprocess.check_output(["docker", "save", image]), "")
    return found


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong; what BuildKit says on the way stands above it."""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mlctl: ") and "Traceback" not in done.stderr
    return last


def test_image_runs_the_job_as_no_root(mlctl: Mlctl) -> None:
    image = mlctl("image", "build", "jobs/train.yaml").stdout.strip()
    said = json.loads(_docker("run", "--rm", "--network=host", image, "python", "train.py"))
    assert said == ["1.0", 1000, "/opt/mlctl/code", "/home/job"]
    assert _docker("image", "inspect", "--format", "{{.Config.User}} {{.Os}}/{{.Architecture}}", image).split() == [
        "1000:0",
        "linux/amd64",
    ]
    script = "touch $HOME/a /opt/ml/b beside && id -un && ls -A && ! touch /usr/c 2>/dev/null"
    listed = _docker("run", "--rm", "--network=host", image, "sh", "-c", script).split()
    assert listed == ["job", ".gitignore", "beside", "train.py"]


def test_nothing_is_built_twice(mlctl: Mlctl) -> None:
    name = mlctl("image", "build", "jobs/train.yaml").stdout
    again = mlctl("image", "build", "jobs/train.yaml")
    assert again.stdout == name and again.stderr.splitlines() == [f"found {name.strip()}"]


def test_code_change_reinstalls_nothing(mlctl: Mlctl, project: Path, index: Index) -> None:
    before = _layers(mlctl("image", "build", "jobs/train.yaml").stdout.strip())
    asked = len(index.asked)
    (project / "code/train.py").write_text(SCRIPT + "# another line\n")
    after = _layers(mlctl("image", "build", "jobs/train.yaml").stdout.strip())
    assert len(index.asked) == asked
    assert after[:-1] == before[:-1] and after[-1] != before[-1]


def test_requirement_change_installs_again_on_the_same_base(mlctl: Mlctl, project: Path) -> None:
    before = _layers(mlctl("image", "build", "jobs/train.yaml").stdout.strip())
    (project / "requirements.txt").write_text("tidings==1.0\nledgers\n")
    image = mlctl("image", "build", "jobs/train.yaml").stdout.strip()
    assert _layers(image)[:2] == before[:2]  # the base, and what was prepared on it
    assert (
        _docker("run", "--rm", "--network=host", image, "python", "-c", "import ledgers; print(ledgers.VERSION)")
        == "2.0\n"
    )


@pytest.mark.parametrize("how", ["PIP_INDEX_URL", "pip.conf", "netrc", "TOKEN"])
def test_secret_is_nowhere_in_the_image(
    mlctl: Mlctl,
    project: Path,
    base_image: str,
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    texts = {
        "pip.conf": f"[global]\nindex-url = {index.url}\n",
        "netrc": f"machine 127.0.0.1 login reader password {PASSWORD}\n",
    }
    source, lines = "env:INDEX", "ledgers==2.0\ntidings==1.0\n"  # which no other test has
    if how in texts:
        (tmp_path / how).write_text(texts[how])
        source = f"file:{tmp_path / how}"
    if how == "TOKEN":  # for a requirement that has its place
        monkeypatch.setenv("INDEX", PASSWORD)
        lines = f"tidings @ {index.plain.replace('//', '//reader:${TOKEN}@')}tidings-1.0-py3-none-any.whl\n"
    if how == "netrc":
        lines = f"--index-url {index.plain}\n{lines}"
    (project / "requirements.txt").write_text(lines)
    (project / "mlctl.yaml").write_text(
        f"build: {{base: '{base_image}', network: host, secrets: {{{how}: '{source}'}}}}\n"
    )
    built = mlctl("image", "build", "jobs/train.yaml")
    assert "Installing collected packages" in built.stderr
    image = built.stdout.strip()
    contents = _contents(image)
    assert any(name.endswith("/tidings.py") for name in contents)  # it was installed, and layers are looked into
    for name, content in contents.items():
        assert PASSWORD.encode() not in content, name
    assert PASSWORD not in _docker("history", "--no-trunc", image) + _docker("image", "inspect", image)
    assert PASSWORD not in built.stdout + built.stderr


def test_scan_finds_what_is_in_a_layer(mlctl: Mlctl, project: Path) -> None:
    """The scan itself: it would have found the password."""
    (project / "code/train.py").write_text(f"TOKEN = '{PASSWORD}'\n")
    image = mlctl("image", "build", "jobs/train.yaml").stdout.strip()
    assert [
        name
        for name, content in _contents(image).items()
        if PASSWORD.encode() in content and "layer" not in name.rpartition("/")[2]
    ]


def test_dry_run_says_all_and_builds_nothing(mlctl: Mlctl) -> None:
    before = _docker("image", "ls", "-q", "--no-trunc")
    shown = json.loads(
        mlctl("image", "build", "jobs/train.yaml", "--dry-run", "--json", "--base", "other:{python}").stdout
    )
    assert shown["dockerfile"].startswith(f"FROM other:{PYTHON}\n") and shown["base"] == f"other:{PYTHON}"
    assert _docker("image", "ls", "-q", "--no-trunc") == before


# ---- A registry


def test_pushed_once_and_found_from_anywhere(mlctl: Mlctl, project: Path, base_image: str, registry: str) -> None:
    text = (project / "mlctl.yaml").read_text()
    (project / "mlctl.yaml").write_text(text.replace("{base", f"{{repository: {registry}/ml, base"))
    assert "not on this machine" in _error(mlctl("image", "push", "jobs/train.yaml", code=2))
    mlctl("image", "build", "jobs/train.yaml")
    answer = json.loads(mlctl("image", "push", "jobs/train.yaml", "--json").stdout)
    assert answer["done"] == "pushed" and answer["image"].startswith(f"{registry}/ml:")
    image = answer["image"]
    _docker("image", "rm", image)
    found = json.loads(mlctl("image", "build", "jobs/train.yaml", "--json").stdout)
    assert (found["done"], found["image"]) == ("found", image)  # in the registry: not built, nor fetched
    assert subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 1
    mlctl("image", "build", "jobs/train.yaml", "--push", "--tag", f"{registry}/ml:newest")
    _docker("image", "rm", image, f"{registry}/ml:newest")
    _docker("pull", f"{registry}/ml:newest")
    assert (
        json.loads(_docker("run", "--rm", "--network=host", f"{registry}/ml:newest", "python", "train.py"))[0] == "1.0"
    )


def test_registry_that_is_down(mlctl: Mlctl, project: Path) -> None:
    text = (project / "mlctl.yaml").read_text()
    (project / "mlctl.yaml").write_text(text.replace("{base", "{repository: '127.0.0.1:9/ml', base"))
    done = mlctl("image", "build", "jobs/train.yaml", "--push", code=75)
    assert re.search(r"127.0.0.1:9/ml:\S+: its registry could not be asked: .*refused", _error(done))


def test_rebuilt_on_a_base_that_moved(mlctl: Mlctl, base_image: str, registry: str) -> None:
    base = f"{registry}/moving:1"
    _docker("tag", base_image, base)
    _docker("push", base)
    first = mlctl("image", "build", "jobs/train.yaml", "--base", base).stdout.strip()
    layers = _layers(first)
    moved = ["docker", "build", "--network=host", "-t", base, "-"]
    subprocess.run(moved, input=f"FROM {base_image}\nRUN touch /moved\n", text=True, check=True, capture_output=True)
    _docker("push", base)
    assert mlctl("image", "build", "jobs/train.yaml", "--base", base).stderr.startswith("found")
    assert mlctl("image", "build", "jobs/train.yaml", "--base", base, "--rebuild").stdout.strip() == first
    assert _layers(first) != layers and _docker("run", "--rm", "--network=host", first, "ls", "/moved") == "/moved\n"


# ---- What goes wrong


def test_base_that_is_not_there(mlctl: Mlctl, registry: str) -> None:
    done = mlctl("image", "build", "jobs/train.yaml", "--base", f"{registry}/nosuch:1", code=2)
    assert re.search(r"build.base: got '\S+/nosuch:1', which could not be had: .*not found", _error(done))


def test_base_of_another_python(mlctl: Mlctl, project: Path) -> None:
    job = project / "jobs/train.yaml"
    job.write_text(job.read_text().replace(f"'{PYTHON}'", "'3.9'"))
    assert f"the base has Python {PYTHON}, and 3.9 is asked for" in _error(
        mlctl("image", "build", "jobs/train.yaml", code=2)
    )


def test_base_without_apt(mlctl: Mlctl, project: Path, base_image: str) -> None:
    (project / "mlctl.yaml").write_text(f"build: {{base: '{base_image}', network: host, system: [git]}}\n")
    assert "the base has no apt-get for build.system" in _error(mlctl("image", "build", "jobs/train.yaml", code=2))


def test_requirement_that_is_not_there(mlctl: Mlctl, project: Path) -> None:
    (project / "requirements.txt").write_text("tidings==7\n")
    text = _error(mlctl("image", "build", "jobs/train.yaml", code=2))
    assert re.search(r"docker build ended with 1: .*No matching distribution found for tidings==7", text)
    assert PASSWORD not in text


def test_secret_that_is_not_set(mlctl: Mlctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDEX")
    assert "build.secrets.PIP_INDEX_URL: the variable INDEX is not set" in _error(
        mlctl("image", "build", "jobs/train.yaml", "--rebuild", code=2)
    )


def test_engine_that_does_not_answer(mlctl: Mlctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert "Cannot connect to the Docker daemon" in _error(mlctl("image", "build", "jobs/train.yaml", code=75))


def test_killed_build_leaves_what_gc_removes(mlctl: Mlctl, project: Path) -> None:
    """kill -9 in the midst of it: beside the packages stays a hidden folder, which takes no room; the next build is a whole one."""
    (project / "requirements.txt").write_text("--index-url http://10.255.255.1/simple\n--timeout 500\ntidings==1.0\n")
    command = [str(Path(sys.executable).with_name("mlctl")), "image", "build", "jobs/train.yaml"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr
    for line in process.stderr:
        if "pip install" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait(60) == -signal.SIGKILL
    packages = config.load(file=project / "mlctl.yaml").home / "packages"
    (left,) = packages.glob(".*")
    (package,) = packages.glob("[!.]*")
    assert (left / "code.tar.gz").samefile(package)
    (project / "requirements.txt").write_text("tidings==1.0\n")
    mlctl("image", "build", "jobs/train.yaml")
    assert list(packages.glob(".*")) == [left]
    os.utime(left, (0, 0))
    assert f"removed package {left.name}" in mlctl("gc").stdout.splitlines()
    assert not left.exists()


def test_modes_and_times_are_the_same_whoever_builds(mlctl: Mlctl, project: Path) -> None:
    (project / "code/train.py").write_text(SCRIPT + "# of one with another umask\n")
    (project / "requirements.txt").write_text("tidings\n")
    before = os.umask(0o077)
    try:
        image = mlctl("image", "build", "jobs/train.yaml").stdout.strip()
    finally:
        os.umask(before)
    script = "stat -c '%a %Y' train.py ../requirements.txt"
    assert _docker("run", "--rm", "--network=host", image, "sh", "-c", script).splitlines() == ["644 0", "644 0"]


# ---- build: auto


class Containers(Local):
    """A platform that runs images: the local one, whose processes are `docker run` of the job's image and code."""

    features = replace(Local.features, honours=Local.features.honours | {"image"}, loses={})

    def plan(self, job: Job, facts: Any, name: str) -> Plan:
        words = ["docker", "run", "--rm", "--network=host", "-v", f"{job.code}:/code:ro", "-w", "/code", job.image]
        return super().plan(replace(job, image="", command=Command((*words, *job.command.argv))), facts, name)


def test_run_builds_pushes_and_runs(
    project: Path, registry: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlctl.backend.load", lambda name, settings: Containers(settings))
    text = (project / "mlctl.yaml").read_text()
    text += (
        f"targets: {{here: {{backend: local, inherit_env: [DOCKER_HOST], build: {{repository: {registry}/auto}}}}}}\n"
    )
    (project / "mlctl.yaml").write_text(text)

    def run(key: str) -> list[Any]:
        settings = config.load(file=project / "mlctl.yaml", target="here")
        handle = api.submit(project / "jobs/train.yaml", params={"lr": 1}, config=settings, key=key).wait(400)
        return list(json.loads(list(handle.logs())[-1]))

    assert run("one")[:2] == ["1.0", 1000]
    asked = len(index.asked)
    settings = config.load(file=project / "mlctl.yaml", target="here")
    job = api.load(project / "jobs/train.yaml").packed(settings.home / "packages")
    image = Build.of(settings, settings.target("here")).image(job).reference
    assert Docker().remote(image)
    (project / "code/train.py").write_text(SCRIPT + "# another line\n")
    monkeypatch.setattr(Docker, "build", None)  # so that a build would be an error
    assert run("two")[:2] == ["1.0", 1000]
    assert len(index.asked) == asked


def test_stop_ends_a_build(project: Path, base_image: str) -> None:
    (project / "requirements.txt").write_text("--index-url http://10.255.255.1/simple\n--timeout 500\ntidings==1.0\n")
    job = api.load(project / "jobs/train.yaml").packed(project / "home")
    stopped, lines = threading.Event(), []

    def say(line: str) -> None:
        lines.append(line)
        if "pip install" in line:
            stopped.set()

    began = time.monotonic()
    with pytest.raises(Interrupted, match="nothing was started"):
        Docker(say, stopped).ensure(Build(base=base_image, network="host").image(job), None, push=False)
    assert time.monotonic() - began < 200 and any("pip install" in line for line in lines)
