"""The shared library itself: what is generated, what Jenkins' translation and its sandbox allow, and withMlctl."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from pipelines import Pipelines, small_jobs

from mlctl.job import KINDS
from mlctl_jenkins import library as tree

HERE = Path(__file__).parents[2] / "integrations/jenkins"
STEPS = sorted((HERE / "vars").glob("*.groovy"))


def test_generated_files_are_up_to_date() -> None:
    """python -m mlctl_jenkins.library writes them."""
    for name, text in tree.generated().items():
        assert (HERE / name).read_text() == text, name
    assert len(tree.generated()) == 2 * len(KINDS)


def test_every_step() -> None:
    """A kind's step is a shim; every step has its page, and takes a map."""
    for path in STEPS:
        page = path.with_suffix(".txt").read_text()
        assert f"<b>{path.stem}</b>" in page, path
        assert re.search(r"^\w+ call\(Map options", path.read_text(), re.MULTILINE), path
    for kind in KINDS:
        assert (HERE / f"vars/{tree.step_of(kind)}.groovy").read_text().count("\n") < 12


def test_tree_is_written_whole(tmp_path: Path, library: Path) -> None:
    """The tree is what Jenkins loads; what was there before goes."""
    names = {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}
    assert {"vars/mlctlTrain.groovy", "src/io/mlctl/Calls.groovy", "resources/io/mlctl/provide.sh"} <= names
    out = tmp_path / "out"
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "mlctl_jenkins.library", str(out)], check=True)
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
        (out / "vars/old.groovy").touch()
    assert list(tmp_path.iterdir()) == [out]


STEPS_CALLED = """
    archiveArtifacts deleteDir dir echo error fileExists junit libraryResource publishHTML pwd readFile sh unstable withCredentials
    withEnv
"""
KEYWORDS = "if for catch while switch return try finally else Map String Serializable Calls"
OWN = "answered asked body call conclude decode encode enter followed leave mlctl plain report shown"
GENERIC = "hashCode length matches replace toString trim add keySet size toJson parseText randomUUID"
"""On script security's generic list, for the classes that the README names."""


def test_only_what_the_sandbox_allows() -> None:
    """Every method that is called, and every class that is made, is on the README's list; none needs an approval."""
    readme = (HERE / "README.md").read_text()
    for path in [*STEPS, *(HERE / "src").rglob("*.groovy")]:
        code = re.sub(
            r"/\*.*?\*/|//[^\n]*|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", path.read_text(), flags=re.DOTALL
        )
        calls = set(re.findall(r"\b([A-Za-z]\w*)\s*(?:\(|\{)", code)) - set(KEYWORDS.split())
        made = set(re.findall(r"\bnew (\w+)", code))
        assert calls - made <= set(f"{STEPS_CALLED} {OWN} {GENERIC}".split()), path
        assert made <= {"JsonSlurper"}, path
    assert all(f"`{name}`" in readme for name in GENERIC.split())


REFUSED = {
    "def m = ('a1' =~ /[0-9]/); echo 'x'": "guard: m holds a java.util.regex.Matcher",
    "def d = new groovy.json.JsonSlurper().parseText('{}'); echo 'x'": "guard: d holds a groovy.json.internal.LazyMap",
    "def l = [2, 1].sort { it }": "guard: sort takes a closure",
    "String x = 'id'; sh \"echo ${x}\"": "guard: sh was given interpolated text",
    "hidden()": "guard: the step echo runs inside a NonCPS method",
}


@pytest.mark.parametrize("code", REFUSED)
def test_guard(pipelines: Pipelines, code: str) -> None:
    """The harness refuses what Jenkins' translation would refuse, or lose at a restart."""
    build = pipelines.run(f"@NonCPS def hidden() {{ echo 'x' }}\nnode {{ {code} }}", "FAILURE")
    assert REFUSED[code] in build.text


CALLS = """
import io.mlctl.Calls
String kept = '{}'
def enter = { List where, String request -> Map mine = Calls.enter(kept, where, request); kept = mine.calls; return mine }
def leave = { Map mine, boolean returned -> kept = Calls.leave(kept, mine.group, mine.number, returned) }
def told = { Map mine -> echo "${mine.name} ${mine.retry}" }
List a = ['a', 'train', 'job.yaml'], b = ['b', 'train', 'job.yaml']

Map one = enter(a, 'n: 1'); leave(one, false)
one = enter(a, 'n: 2'); told(one); leave(one, true)        // a retry with other arguments: the same call
one = enter(a, 'n: 2'); told(one); leave(one, true)        // it returned: another
told(enter(b, 'n: 2'))                                     // another stage
told(enter(['b', 'train', 'other.yaml'], 'n: 2'))          // another job

List c = ['c', 'train', 'job.yaml']
Map first = enter(c, 'n: 1'), second = enter(c, 'n: 2')    // two branches at once
leave(first, false); leave(second, false)
told(enter(c, 'n: 2')); told(enter(c, 'n: 1'))             // each retry finds its own, in whatever order
leave(first, false)
told(enter(c, 'n: 3'))                                     // and none takes another's
"""


def test_calls(pipelines: Pipelines) -> None:
    """Which call is which: retries, repetitions, other stages and jobs, branches that overlap."""
    build = pipelines.run(CALLS)
    said = [
        "a/job.yaml/0 true", "a/job.yaml/1 false", "b/job.yaml/0 false", "b/other.yaml/0 false",
        "c/job.yaml/1 true", "c/job.yaml/0 true", "c/job.yaml/2 false",
    ]  # fmt: skip
    assert build.log == [*said, "Finished: SUCCESS"]


MLCTL = Path(sys.executable).with_name("mlctl")


def wheel(folder: Path, version: str) -> Path:
    """An index with a wheel called mlctl, whose command says its version, and then is this checkout's."""
    made = folder / "mlctl" / f"mlctl-{version}-py3-none-any.whl"
    made.parent.mkdir(parents=True, exist_ok=True)
    info = f"mlctl-{version}.dist-info"
    main = f"import os, sys\ndef main():\n    print('mlctl {version}', flush=True)\n    os.execv({str(MLCTL)!r}, sys.argv)\n"
    files = {
        "stand_in.py": main,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mlctl\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmlctl = stand_in:main\n",
    }
    record = ""
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            record += f"{name},sha256={digest},{len(text.encode())}\n"
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    (made.parent / "index.html").write_text(f'<a href="{made.name}">{made.name}</a>')
    return made


@pytest.fixture
def tools(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where withMlctl keeps what it installs."""
    monkeypatch.setenv("MLCTL_TOOLS", str(pipelines.at / "tools"))
    return pipelines.at / "tools/jenkins"


def test_with_mlctl(pipelines: Pipelines, tools: Path) -> None:
    """It installs the version from the index that is named, once, though two branches race; it keeps that, removes what
    killed builds left, and returns what the steps inside did."""
    index = pipelines.at / "simple"
    wheel(index, "9.9.9")
    for name, age in (("env.old", 3), ("env.new", 0)):
        (tools / name).mkdir(parents=True)
        (tools / name / ".draft").touch()
        os.utime(tools / name / ".draft", (time.time() - age * 86400,) * 2)
    call = f"withMlctl(version: '9.9.9', index: '{index.as_uri()}', python: '{sys.executable}') {{ sh 'mlctl --version'; 'it' }}"
    build = pipelines.run(f"node {{ parallel(a: {{ {call} }}, b: {{ {call} }}) }}")
    assert build.log.count("mlctl 9.9.9") == 2
    kept = set(tools.iterdir())
    assert sorted(path.is_symlink() for path in kept) == [False, False, True] and tools / "env.new" in kept
    build = pipelines.run(f'node {{ def did = {call}; echo "did ${{did}}" }}')
    assert "mlctl 9.9.9" in build.log and "did it" in build.log and set(tools.iterdir()) == kept


def test_with_mlctl_of_a_wheel(pipelines: Pipelines, tools: Path) -> None:
    """A wheel in the workspace, which may be another one the next time under its old name."""
    text = f"node {{ withMlctl(wheel: 'mlctl-1-py3-none-any.whl', python: '{sys.executable}') {{ sh 'mlctl --version' }} }}"
    for count in (1, 2):
        made = wheel(pipelines.at, "1")
        with zipfile.ZipFile(made, "a") as archive:
            archive.writestr(f"other{count}.py", "")
        made.rename(pipelines.workspace / made.name)
        assert "mlctl 1" in pipelines.run(text).log
        assert sum(path.is_symlink() for path in tools.iterdir()) == count


def test_with_mlctl_of_a_windows_controller(pipelines: Pipelines, tools: Path) -> None:
    """There git ends each line of the library with a carriage return, too, which no shell takes."""
    pipelines.library = Path(shutil.copytree(pipelines.library, pipelines.at / "library"))
    for path in pipelines.library.rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    made = wheel(pipelines.at, "1")
    call = f"withMlctl(wheel: '{made}', python: '{sys.executable}') {{ sh 'mlctl --version' }}"
    assert "mlctl 1" in pipelines.run(f"node {{ {call} }}").log


def test_with_mlctl_knows_one_index(pipelines: Pipelines, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that only another index has is not had, though the agent's pip is configured for that one, too."""
    ours, theirs = pipelines.at / "ours", pipelines.at / "theirs"
    wheel(ours, "1.0")
    wheel(theirs, "2.0")
    (pipelines.at / "pip.conf").write_text(f"[global]\nextra-index-url = {theirs.as_uri()}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(pipelines.at / "pip.conf"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", theirs.as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(theirs / "mlctl"))
    text = "node {{ withMlctl(version: '{}', index: '{}', python: '{}') {{ sh 'mlctl --version' }} }}"
    build = pipelines.run(text.format("2.0", ours.as_uri(), sys.executable), "FAILURE")
    assert "No matching distribution found for mlctl==2.0" in build.text
    assert not list(tools.iterdir())
    build = pipelines.run("node { withMlctl(version: '1', index: 'https://u:p@x/simple') { } }", "FAILURE")
    assert "withMlctl: index: has a character beside letters" in build.text and "u:p" not in build.text


def test_readme(pipelines: Pipelines, tools: Path) -> None:
    """The page's pipeline, with another index, over small jobs of the names that it speaks of."""
    small_jobs(pipelines)
    wheel(pipelines.at / "simple", "0.1.0")
    text = (HERE / "README.md").read_text().partition("```groovy\n")[2].partition("```")[0]
    text = text.replace(
        "'https://pypi.example.org/simple'", f"'{(pipelines.at / 'simple').as_uri()}', python: '{sys.executable}'"
    )
    build = pipelines.run(text)
    assert "accuracy 0.5" in build.log and build.log.count("mlctl 0.1.0") == 2
