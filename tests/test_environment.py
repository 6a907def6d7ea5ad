"""The Python that a local job gets: built from requirements, the project's, or the one that runs mlctl.

Everything is real and nothing is fetched: the wheels are made here, and pip and uv are told to look nowhere else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlctl
from mlctl.backends.local import environment
from mlctl.backends.local.prune import prune
from mlctl.errors import InvalidJob, Unavailable

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SHOW = "import sys, greeting; print(greeting.TEXT); print(sys.prefix)"
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
BUILDERS = [pytest.param("uv", marks=pytest.mark.skipif(UV is None, reason="no uv here")), pytest.param("pip")]


def wheel(folder: Path, name: str = "greeting", version: str = "1.0", requires: str = "") -> Path:
    """A wheel of one module, with TEXT in it."""
    about = f"{name}-{version}.dist-info"
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"TEXT = '{name} {version}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirement}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}\n")
    files[f"{about}/RECORD"] = "".join(rows) + f"{about}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


@pytest.fixture(autouse=True)
def index(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place that pip and uv look in."""
    made = tmp_path / "index"
    made.mkdir()
    wheel(made)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(made), "PIP_CONFIG_FILE": os.devnull}
    settings |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(made), "UV_NO_CONFIG": "1", "UV_OFFLINE": "1"}
    settings |= {"UV_CACHE_DIR": str(tmp_path / "uv-cache"), "PIP_CACHE_DIR": str(tmp_path / "pip-cache")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(params=BUILDERS)
def builder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Environments are built by uv, or by venv and pip: whether uv is on PATH decides."""
    choose_builder(str(request.param), tmp_path, monkeypatch)
    return str(request.param)


def choose_builder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not os.access(f"{folder}/uv", os.X_OK)]
    if name == "uv":
        assert UV
        (tmp_path / "uv-bin").mkdir()
        (tmp_path / "uv-bin" / "uv").symlink_to(UV)
        folders.insert(0, str(tmp_path / "uv-bin"))
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    assert bool(shutil.which("uv")) == (name == "uv")


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The faster builder of those that are here."""
    name = "uv" if UV else "pip"
    choose_builder(name, tmp_path, monkeypatch)
    return name


def job(*requirements: str, **fields: Any) -> dict[str, Any]:
    made = {"kind": "process", "name": "t", "command": ["python", "-c", SHOW], **fields}
    return {**made, "requirements": list(requirements)} if requirements else made


def output(**fields: Any) -> list[str]:
    return list(mlctl.run(fields, timeout=60).logs())


def environments(home: Path) -> list[Path]:
    return sorted(path for path in (home / "envs").glob("*") if path.is_dir())


@contextlib.contextmanager
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The commands that builds ran meanwhile."""
    ran: list[list[str]] = []
    real = subprocess.run

    def run(command: Any, *args: Any, **options: Any) -> Any:
        if "install" in command:
            ran.append(command)
        return real(command, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", run)
        yield ran


# ---- Building


def test_requirements_are_built_once(builder: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with builds(monkeypatch) as ran:
        first = output(**job("greeting"))
        assert output(**job("greeting")) == first
    (made,) = environments(home)
    assert first == ["greeting 1.0", str(made)]
    assert [Path(command[0]).name for command in ran] == ["uv" if builder == "uv" else "python"]
    assert (made / ".complete").exists()


def test_gc_leaves_alone_what_a_submit_has_just_found(quick: str, home: Path) -> None:
    """It may copy inputs for long before its run is there to tell that it uses the environment."""
    output(**job("greeting"))
    (made,) = environments(home)
    shutil.rmtree(home / "runs")
    then = time.time() - 40 * 86400
    os.utime(made / ".complete", (then, then))
    before = time.time() - 30 * 86400
    assert any(made.name in line for line in prune(home, before, dry=True))
    asked = mlctl.plan(job("greeting")).request
    environment.ensure(asked["python"])
    assert not any(made.name in line for line in prune(home, before, dry=True))


@pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="no pip beside mlctl")
def test_a_python_without_ensurepip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian ships it: the pip beside mlctl installs into the new environment."""
    choose_builder("pip", tmp_path, monkeypatch)
    monkeypatch.setattr(environment, "_has", lambda base, module: False)
    assert output(**job("greeting"))[0] == "greeting 1.0"


def test_other_requirements_are_another_environment(quick: str, home: Path, index: Path) -> None:
    wheel(index, version="2.0")
    assert output(**job("greeting==1.0"))[0] == "greeting 1.0"
    assert output(**job("greeting==2.0"))[0] == "greeting 2.0"
    assert len(environments(home)) == 2


def test_requirements_of_a_file(quick: str, project: Path, index: Path) -> None:
    wheel(index, "other", requires="greeting")
    (project / "requirements.txt").write_text("# comment\nother == 1.0  # pinned\n")
    assert output(**job(), requirements="requirements.txt")[0] == "greeting 1.0"


def test_two_at_once_build_once(quick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[str]] = []
    with builds(monkeypatch) as ran:
        threads = [threading.Thread(target=lambda: answers.append(output(**job("greeting")))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ran) == 1
    assert len(answers) == 4 and {line for line, _ in answers} == {"greeting 1.0"}


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `uv` that notes its calls, and stays in its installation until the file `go` is there."""
    folder = tmp_path / "slow"
    folder.mkdir()
    script = f"""#!/bin/sh
echo "$1 $2" >> {folder}/calls
case $1 in
  venv) exec {sys.executable} -m venv --without-pip "$5";;
  pip) echo half > "$(dirname "$5")/half-$$"; until [ -e {folder}/go ]; do sleep 0.01; done; echo done >> {folder}/calls
       echo "TEXT = 'slow'" > "$(echo "$(dirname "$5")"/../lib/python3*/site-packages)/greeting.py";;
esac
"""
    (folder / "uv").write_text(script)
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def calls(slow: Path) -> list[str]:
    return (slow / "calls").read_text().splitlines() if (slow / "calls").exists() else []


def test_a_build_that_was_killed_is_made_anew(slow: Path, home: Path) -> None:
    """Its installer goes on without it for a while: the next caller waits for that, and then starts from nothing."""
    script = "import json, sys, mlctl; mlctl.run(json.loads(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script, json.dumps(job("greeting"))], env=env) as killed:
        until(lambda: len(calls(slow)) == 2)
        killed.kill()
    answers: list[list[str]] = []
    thread = threading.Thread(target=lambda: answers.append(output(**job("greeting"))))
    thread.start()
    time.sleep(0.3)
    assert calls(slow) == ["venv --quiet", "pip install"]  # the lock is the installer's now
    (slow / "go").touch()
    thread.join(30)
    assert answers and answers[0][0] == "slow"
    assert calls(slow) == ["venv --quiet", "pip install", "done", "venv --quiet", "pip install", "done"]
    assert len(list(environments(home)[0].glob("bin/half-*"))) == 1  # the second's own


@pytest.mark.parametrize("moment", [1, 2])
def test_a_build_killed_whole_is_made_anew(slow: Path, home: Path, moment: int) -> None:
    """Caller and installer at once, as when a container goes."""
    script = "import json, sys, mlctl; mlctl.run(json.loads(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", script, json.dumps(job("greeting"))]
    with subprocess.Popen(words, env=env, start_new_session=True) as killed:
        until(lambda: len(calls(slow)) == moment)
        os.killpg(killed.pid, signal.SIGKILL)
    (slow / "go").touch()
    assert output(**job("greeting"))[0] == "slow"


def test_an_environment_whose_python_is_gone_is_made_anew(quick: str, home: Path) -> None:
    output(**job("greeting"))
    (environments(home)[0] / "bin" / "python").unlink()
    assert output(**job("greeting"))[0] == "greeting 1.0"


def test_the_callers_own_python_stays_out(quick: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "greeting.py").write_text("TEXT = 'wrong'\n")
    monkeypatch.setenv("PYTHONPATH", str(project / "elsewhere"))
    assert output(**job("greeting"))[0] == "greeting 1.0"


def test_gc_at_any_call_of_which_an_environment_is_used(quick: str, home: Path) -> None:
    """It leaves what was unused till then, or is done first, and the run builds it anew."""
    chosen = mlctl.plan(job("greeting")).request["python"]
    environment.ensure(chosen)
    (made,) = environments(home)
    left = 0
    users: list[threading.Thread] = []

    def hear(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if left and event.startswith(("open", "os.", "fcntl.")):
            left -= 1
            if not left:
                users.append(threading.Thread(target=environment.ensure, args=(chosen,)))
                users[-1].start()
                users[-1].join(1)  # where gc is first it waits for gc
            elif event == "os.rename":  # gone; what is left of it are files
                left = 0

    sys.addaudithook(hear)
    number = 0
    while len(users) == number:
        number += 1
        os.utime(made / ".complete", (1e9, 1e9))
        left = number
        list(prune(home, time.time() - 86400, dry=False))
        left = 0
        if len(users) == number:
            users[-1].join(60)
            assert (made / "bin/python").exists(), number
    assert number > 5 and not environments(home)


# ---- What can't be


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        pytest.param("uv", "no-such-package", "no-such-package was not found", marks=BUILDERS[0].marks),
        pytest.param("uv", "greeting==9", "there is no version of greeting==9", marks=BUILDERS[0].marks),
        pytest.param("uv", "greeting is missing", "greeting is missing", marks=BUILDERS[0].marks),
        ("pip", "no-such-package", "No matching distribution found for no-such-package"),
    ],
)
def test_a_bad_requirement_is_one_line(
    name: str, line: str, words: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_builder(name, tmp_path, monkeypatch)
    with pytest.raises(InvalidJob, match=f"^requirements: (?i:error).*{words}.*; tried: ") as caught:
        mlctl.run(job(line))
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600 and str(home) not in text
    assert not list(home.glob("runs/*/*"))
    assert not list(home.glob("envs/*/.complete"))


def test_no_index_is_unavailable(builder: str, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_NO_INDEX", "UV_FIND_LINKS", "UV_OFFLINE"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    nobody = "http://127.0.0.1:9/simple"
    monkeypatch.setenv("PIP_INDEX_URL", nobody)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", nobody)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(Unavailable, match=r"^requirements: .*; the package index or the disk failed$") as caught:
        mlctl.run(job("greeting"))
    assert "\n" not in str(caught.value)


def test_a_version_that_is_not_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    for fields in ({"requirements": ["greeting"]}, {}):
        with pytest.raises(
            InvalidJob, match=rf"python: no Python 3\.99 on this machine; mlctl runs on {HERE}"
        ) as caught:
            mlctl.run({**job(), **fields, "python": "3.99"})
        assert "\n" not in str(caught.value)
    assert not list(home.glob("runs/*/*"))


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version manager's empty shim, or a file for another machine."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name, text in {
        "python3.99": "not a program",
        "python3": "#!/bin/sh\nexit 127\n",
        "python": "#!/nowhere\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(InvalidJob, match=r"no Python 3\.99 on this machine"):
        mlctl.run({**job(), "python": "3.99"})


# ---- Choosing


PREFIX = [
    "python",
    "-c",
    "import sys, os; print(sys.prefix); print(sys.version_info[:2]); print(os.environ.get('VIRTUAL_ENV'))",
]


def test_the_projects_venv_is_used(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (project / "jobs" / "deep").mkdir(parents=True)
    (project / "code").mkdir()
    (project / "code" / "main.py").touch()
    venv = str(project / ".venv")
    for fields in ({"code": "code"}, {"code": "code", "python": HERE}):
        prefix, _, variable = output(**job(command=PREFIX, **fields))
        assert (prefix, variable) == (venv, venv)
    (project / "jobs" / "deep" / "job.yaml").write_text(f"kind: process\nname: t\ncommand: {PREFIX}\n")
    handle = mlctl.run(project / "jobs" / "deep" / "job.yaml", timeout=60)
    assert next(iter(handle.logs())) == venv


def test_a_venv_beyond_the_repository_is_not(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project.parent / ".venv"], check=True)
    (project / "code").mkdir()
    (project / "code" / "main.py").touch()
    assert output(**job(command=PREFIX, code="code"))[0] == sys.prefix


def test_a_venv_of_another_version_is_not(project: Path) -> None:
    (project / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("true") or "/bin/true", project / ".venv" / "bin" / "python")
    (project / ".venv" / "pyvenv.cfg").write_text("version = 3.99.1\n")
    (project / "code").mkdir()
    (project / "code" / "main.py").touch()
    assert output(**job(command=PREFIX, code="code", python=HERE))[0] == sys.prefix


def test_else_it_is_the_one_that_runs_mlctl(project: Path) -> None:
    (project / "code").mkdir()
    (project / "code" / "main.py").touch()
    for fields in ({}, {"python": HERE}):
        prefix, version, variable = output(**job(command=PREFIX, code="code", **fields))
        assert (prefix, version, variable) == (sys.prefix, str(sys.version_info[:2]), "None")
    script = output(**job(command={"shell": "command -v python"}, code="code"))
    assert script == [str(Path(sys.executable).parent / "python")]


def test_another_version_is_looked_for_on_path(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for another interpreter, so that the test needs none."""
    folder = tmp_path / "other"
    folder.mkdir()
    script = '#!/bin/sh\nif [ "$1" = -S ]; then echo 3.98.2; else echo "other $1"; fi\n'
    (folder / "python3.98").write_text(script)
    (folder / "python3.98").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert output(**job(command=["python", "x"], python="3.98")) == ["other x"]


def test_choosing_builds_nothing(home: Path, quick: str) -> None:
    plan = mlctl.plan(job("greeting"))
    assert plan.request["python"]["from"] == "requirements"
    assert not (home / "envs").exists()


def test_the_digest_is_of_the_lines_and_the_interpreter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path(*lines: str) -> str:
        return str(mlctl.plan(job(*lines)).request["python"]["path"])

    one = path("a", "b")
    assert one == path("a", "b") != path("ab") != path("a")
    monkeypatch.setattr(environment.platform, "machine", lambda: "other")
    assert path("a", "b") != one
