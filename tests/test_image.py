"""What goes into an image, and what its tag follows from: nothing is built here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlctl import api, config, dependencies, lifecycle
from mlctl.backends.local import Local
from mlctl.config import Target
from mlctl.errors import InvalidConfig, InvalidJob
from mlctl.image import Build
from mlctl.job import Job
from mlctl.runs import Plan

PYTHON = "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes a packed job, of one file of code."""

    def make(text: str = "print(1)\n", **fields: Any) -> Job:
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code/train.py").write_text(text)
        given = {"kind": "train", "name": "churn", "command": "python train.py", "code": str(tmp_path / "code")}
        return api.load({**given, "python": "3.11", "requirements": ["tidings==1.0"], **fields}).packed(
            tmp_path / "home"
        )

    return make


def test_same_job_same_tag(job: Callable[..., Job]) -> None:
    assert Build().image(job(), code=True).reference == Build().image(job(), code=True).reference


@pytest.mark.parametrize(
    "fields", [{"python": "3.10"}, {"requirements": ["tidings==1.1"]}, {"requirements": []}, {"text": "print(2)\n"}]
)
def test_another_job_another_tag(job: Callable[..., Job], fields: dict[str, Any]) -> None:
    assert Build().image(job(), code=True).digest != Build().image(job(**fields), code=True).digest


@pytest.mark.parametrize(
    "build",
    [
        Build(base="debian:12"), Build(system=("git",)), Build(user="0"), Build(platform="linux/arm64"),
        Build(secrets={"PIP_INDEX_URL": "env:X"}),
    ],
)  # fmt: skip
def test_another_build_another_tag(job: Callable[..., Job], build: Build) -> None:
    assert build.image(job(), code=True).digest != Build().image(job(), code=True).digest


@pytest.mark.parametrize("fields", [{"params": {"lr": 1}}, {"name": "other"}, {"timeout": "1h"}, {"env": {"A": "b"}}])
def test_what_is_not_in_it_changes_nothing(job: Callable[..., Job], fields: dict[str, Any]) -> None:
    assert Build().image(job(), code=True).digest == Build().image(job(**fields), code=True).digest


def test_where_a_secret_comes_from_is_not_in_it(job: Callable[..., Job]) -> None:
    one, other = (
        Build(secrets={"PIP_INDEX_URL": source}).image(job()) for source in ("env:HERE", "file:/run/there/url")
    )
    assert one.digest == other.digest
    assert "HERE" not in one.dockerfile and "there" not in other.dockerfile


def test_code_of_a_shipped_package_is_not_in_it(job: Callable[..., Job]) -> None:
    """So that a changed line of code builds nothing, where the target says build: auto."""
    assert Build().image(job()).digest == Build().image(job("print(2)\n")).digest


def test_layers_in_the_order_of_change(job: Callable[..., Job]) -> None:
    text = Build(system=("git", "libgomp1")).image(job(), code=True).dockerfile
    places = [
        text.index(what) for what in ("FROM", "apt-get install", "/etc/passwd", "pip install", "ADD ", "\nUSER 1000:0")
    ]
    assert places == sorted(places)
    assert text.startswith("FROM python:3.11-slim\n") and "git libgomp1" in text


def test_code_change_changes_no_line_but_the_context(job: Callable[..., Job]) -> None:
    one, other = (Build().image(job(text), code=True) for text in ("print(1)\n", "print(2)\n"))
    assert one.files == other.files and one.code != other.code


def test_secrets_are_mounted_for_the_installation_only(job: Callable[..., Job]) -> None:
    build = Build(secrets={"netrc": "file:~/.netrc", "pip.conf": "file:/etc/pip.conf", "TOKEN": "env:T"})
    (line,) = (line for line in re.split(r"(?<!\\)\n", build.image(job()).dockerfile) if "pip install" in line)
    assert re.findall(r"--mount=type=secret,id=(\S+),required=true", line) == ["TOKEN", "netrc", "pip.conf"]
    assert 'TOKEN="$(cat /run/secrets/TOKEN)"' in line
    assert "PIP_CONFIG_FILE=/run/secrets/pip.conf" in line and "NETRC=/run/secrets/netrc" in line


def test_no_requirements_no_installation(job: Callable[..., Job]) -> None:
    image = Build(secrets={"TOKEN": "env:T"}).image(job(requirements=[]))
    assert "pip install" not in image.dockerfile and list(image.files) == ["Dockerfile"]


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url https://me:hunter2@pypi.example.org/simple", "lib @ git+https://ghp_hunter2@example.org/lib.git",
        "lib @ https://me:${TOKEN}@example.org/lib-1.whl",
    ],
)  # fmt: skip
def test_password_in_a_requirement_is_refused(job: Callable[..., Job], line: str) -> None:
    with pytest.raises(InvalidJob, match=r"requirements.*has a password.*build\.secrets") as caught:
        Build().image(job(requirements=[line]))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["lib @ git+ssh://git@example.org/lib.git", "lib @ https://me:${TOKEN}@example.org/a.whl"]
)
def test_requirement_without_its_password_is_taken(job: Callable[..., Job], line: str) -> None:
    assert line in Build(secrets={"TOKEN": "env:T"}).image(job(requirements=[line])).files["requirements.txt"].decode()


def test_job_that_is_given_its_image(job: Callable[..., Job]) -> None:
    asked = job()
    image = Build(repository="registry.example.org/ml").image(asked)
    given = image.given(asked)
    assert given.image == image.reference and given.image.startswith("registry.example.org/ml:")
    assert (given.python, given.requirements, given.requirement_lines) == ("", (), ())
    assert given.code == asked.code and given.package == asked.package
    assert given.digest("t") == replace(asked, requirement_lines=()).digest("t")


def test_base_without_python_is_the_authors(job: Callable[..., Job]) -> None:
    assert Build(base="pytorch/pytorch:2.5").image(job(python="3.11")).python == "3.11"  # checked when it is built
    image = Build(base="pytorch/pytorch:2.5").image(replace(job(), python=""))
    assert image.python == "" and "sys.version_info" not in image.dockerfile
    assert Build().image(replace(job(), python="")).build.base == "python:3.12-slim"


# ---- Settings


def _build(text: str, project: Path, target: str = "here", **flags: Any) -> Build:
    (project / "mlctl.yaml").write_text(text)
    settings = config.load(file=project / "mlctl.yaml")
    return Build.of(settings, settings.target(target), flags)


def test_target_over_project_flags_over_both(tmp_path: Path) -> None:
    text = """\
build: {repository: example.org/ml, base: 'debian:12', system: [git], user: 7}
targets: {here: {backend: local, build: {base: 'debian:13'}}, cloud: {backend: sagemaker, build: auto}}
"""
    made = _build(text, tmp_path)
    assert (made.repository, made.base, made.system, made.user) == ("example.org/ml", "debian:13", ("git",), "7")
    assert _build(text, tmp_path, base="debian:14").base == "debian:14"
    assert _build(text, tmp_path, "cloud").base == "debian:12"


def test_user_is_root_where_the_platform_needs_it(tmp_path: Path) -> None:
    text = "targets: {here: {backend: local}, cloud: {backend: sagemaker, build: auto}}\n"
    assert (_build(text, tmp_path).user, _build(text, tmp_path, "cloud").user) == ("1000", "0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("build: {system: ['git; rm -rf /']}", r"mlctl.yaml:1: build.system\[0\].*expected a package"),
        ("build: {base: 'debian:12\\nRUN x'}", r"build.base.*expected an image"),
        ("build: {secrets: {PIP_INDEX_URL: 'https://me:pw@x'}}", r"build.secrets.PIP_INDEX_URL.*expected env:NAME"),
        ("build: {secrets: {'a b': 'env:X'}}", r"build.secrets.*a variable's name"),
        ("build: {user: root}", r"build.user.*a number"),
        ("build: {registry: x}", r"build.registry: unknown field"),
        ("targets: {here: {backend: local, build: sometimes}}", r"targets.here.build.*auto, never"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        _build(f"{text}\n", tmp_path, "local")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"base": "a b"}, r"build.base: got 'a b', expected an image"),
        ({"platform": "linux"}, r"build.platform: got 'linux', expected a platform"),
        ({"bass": "x"}, r"build.bass: unknown setting; did you mean 'base'"),
        ({"system": ["a b"]}, r"build.system: got 'a b'"),
        ({"secrets": {"X": "pw"}}, r"build.secrets.X: got 'pw', expected env:NAME or file:PATH"),
        ({"secrets": {"a b": "env:X"}}, r"build.secrets: got 'a b'"),
    ],
)
def test_wrong_flags(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        Build.of(config.Config({}, {}), Target("here", "local", {}), flags)


# ---- The lifecycle


class Containers(Local):
    """The local platform, as if it ran images: `planned` has the job that was planned last."""

    features = replace(Local.features, honours=Local.features.honours | {"image"}, loses={})
    planned: ClassVar[list[Job]] = []

    def plan(self, job: Job, facts: Any, name: str) -> Plan:
        self.planned.append(job)
        return super().plan(replace(job, image=""), facts, name)


@pytest.fixture
def containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], lifecycle.Execution]:
    """Makes a job's way to a target that runs images and builds them."""
    monkeypatch.setattr("mlctl.backend.load", lambda name, settings: Containers(settings))
    (tmp_path / "mlctl.yaml").write_text("targets: {here: {backend: local, build: {repository: example.org/ml}}}\n")
    settings = config.load(file=tmp_path / "mlctl.yaml", target="here")
    return lambda job: api.execution(job, config=settings, key="k")


def test_plan_says_the_image_and_builds_nothing(
    job: Callable[..., Job], containers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # no process at all
    asked = job(requirements=[], python=PYTHON)
    execution = containers(asked)
    execution.plan()
    image = Build(repository="example.org/ml").image(asked)
    assert (Containers.planned[-1].image, Containers.planned[-1].python) == (image.reference, "")
    _, _, stamp = execution.prepare()
    assert stamp.digest == asked.digest("here")  # where the job gets what it asks for is not what it asks for


def test_job_with_an_image_keeps_it(job: Callable[..., Job], containers: Any) -> None:
    execution = containers(replace(job(), image="own:1", python="", requirements=()))
    execution.plan()
    assert execution.build is None and Containers.planned[-1].image == "own:1"


def test_start_without_docker_starts_nothing(
    job: Callable[..., Job], containers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = containers(job(requirements=[], python=PYTHON))
    execution.plan()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InvalidConfig, match=r"docker: not on the PATH.*install Docker"):
        execution.start()
    assert not execution.backend.find(execution.key)


def test_platform_without_images_refuses(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "mlctl.yaml").write_text("targets: {here: {backend: local, build: auto}}\n")
    with pytest.raises(InvalidConfig, match=r"targets.here.build: local runs no images"):
        api.execution(job(), config=config.load(file=tmp_path / "mlctl.yaml", target="here"))


# ---- Dependencies

toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is Python 3.11's")


@toml
def test_pyproject(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["tidings>=1", "ledgers[a]; os_name"]\n'
    )
    assert job(requirements=str(tmp_path / "pyproject.toml")).requirement_lines == ("tidings>=1", "ledgers[a]; os_name")


@toml
def test_pylock(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "tidings"\nversion = "1.0"\nmarker = "os_name == \'posix\'"\n'
        '[[packages.wheels]]\nurl = "https://example.org/t.whl"\nhashes = {sha256 = "ab"}\n'
        '[packages.sdist]\nurl = "https://example.org/t.tar.gz"\nhashes = {sha256 = "cd"}\n'
    )
    (line,) = job(requirements=str(tmp_path / "pylock.toml")).requirement_lines
    assert line == "tidings==1.0 ; os_name == 'posix' --hash=sha256:ab --hash=sha256:cd"


@toml
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pyproject.toml", "[tool.x]", "it has no project.dependencies"),
        ("pyproject.toml", "[project]\ndynamic = ['dependencies']", "dynamic"),
        ("pyproject.toml", "[", "pyproject.toml: "),
        ("pylock.toml", "[[packages]]\nname = 'x'\ndirectory = {path = '.'}", "x is locked to a folder"),
        ("other.toml", "", "expected pyproject.toml, pylock.toml or a requirements file"),
    ],
)
def test_wrong_dependencies(job: Callable[..., Job], tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidJob, match=message):
        job(requirements=str(tmp_path / name))


@pytest.mark.parametrize("name", dependencies.EXPORT)
def test_lock_of_another_tool(job: Callable[..., Job], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(InvalidJob, match="only its own tool reads it: "):
        job(requirements=str(tmp_path / name))
