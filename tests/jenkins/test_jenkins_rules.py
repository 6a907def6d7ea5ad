"""CodeNarc's rules, its seven of Jenkins' CPS translation among them, over the library and every pipeline that is shown."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "integrations/jenkins").rglob("*.md"))]
Codenarc = Callable[[Path], set[tuple[str, str]]]


@pytest.fixture(scope="module")
def codenarc(groovy: list[str]) -> Codenarc:
    """Finds (file, rule) in a folder. What CodeNarc could not read as it should, and so did not check, is an error."""
    jars = subprocess.run([ROOT / "tools/codenarc.sh"], capture_output=True, text=True, timeout=250, check=False)
    if jars.returncode:
        pytest.skip(jars.stderr.strip() or "no CodeNarc")

    def find(folder: Path) -> set[tuple[str, str]]:
        path = [f"{jars.stdout.strip()}/{part}/*" for part in (".", "groovy/lib")]
        path += [str(HERE / "harness/stubs"), str(ROOT / "integrations/jenkins/src")]
        report = folder.with_suffix(".json")
        words = [
            *groovy[: groovy.index("-cp")], "-cp", ":".join(path), "org.codenarc.CodeNarc", f"-basedir={folder}",
            "-includes=**/*.groovy,**/Jenkinsfile", f"-rulesetfiles=file:{HERE / 'codenarc.groovy'}", f"-report=json:{report}",
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and not re.search("WARN|ERROR", said), said
        found = json.loads(report.read_text())
        assert found["summary"]["totalFiles"] == sum(path.is_file() for path in folder.rglob("*")), (
            "a file was left out"
        )
        return {
            (f"{package['path']}/{file['name']}:{one['lineNumber']}", f"{one['ruleName']}: {one['message']}")
            for package in found["packages"] for file in package["files"] for one in file["violations"]
        }  # fmt: skip

    return find


def shown() -> dict[str, str]:
    """Every pipeline that a page or an example shows."""
    pipelines = {"example": (ROOT / "examples/04-orchestrators/Jenkinsfile").read_text()}
    for page in PAGES:
        for number, text in enumerate(re.findall(r"```groovy\n(.*?)```", page.read_text(), re.DOTALL)):
            pipelines[f"{page.parent.name}-{page.stem}-{number}"] = text
    for page in sorted((ROOT / "integrations/jenkins/vars").glob("*.txt")):
        for number, text in enumerate(re.findall(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)):
            pipelines[f"{page.stem}-{number}"] = html.unescape(text) + "\n"
    return pipelines


def test_no_rule_is_broken(codenarc: Codenarc, tmp_path: Path) -> None:
    """Nor is any file left unchecked."""
    folder = tmp_path / "checked"
    for part in ("vars", "src"):
        for path in (ROOT / "integrations/jenkins" / part).rglob("*.groovy"):
            copy = folder / path.relative_to(ROOT / "integrations/jenkins")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    pipelines = shown()
    assert len(pipelines) > len(PAGES)
    for name, text in pipelines.items():
        (folder / name).mkdir()
        (folder / name / "Jenkinsfile").write_text(text)
    assert codenarc(folder) == set()


BROKEN = {
    "ClassNotSerializable": "class Plain { }",
    "ClosureInGString": 'void run(int n) { echo "${ -> n }" }',
    "CpsCallFromNonCpsMethod": "void shown() { echo 'x' }\n@com.cloudbees.groovy.cps.NonCPS void hidden() { shown() }",
    "ExpressionInCpsMethodNotSerializable": "void run(String a) { java.util.regex.Matcher m = a =~ 'x'; echo m[0] }",
    "ForbiddenCallInCpsMethod": "List run(List all) { return all.sort { it } }",
    "ObjectOverrideOnlyNonCpsMethods": "class Named implements Serializable { String toString() { return 'x' } }",
    "ParameterOrReturnTypeNotSerializable": "void run(Thread one) { echo one.name }",
    "UnusedVariable": "void run() { String never = 'x' }",
}


def test_rules_fire(codenarc: Codenarc, tmp_path: Path) -> None:
    """Each of Jenkins' rules finds what it is for, whatever the file is called; so does one of the others."""
    for name, text in BROKEN.items():
        file = tmp_path / "broken" / name / ("Jenkinsfile" if name == "ClosureInGString" else "other.groovy")
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")
    found = codenarc(tmp_path / "broken")
    fired = {(file.partition("/")[0], text.partition(":")[0]) for file, text in found}
    assert {(name, name) for name in BROKEN} <= fired


def test_what_is_not_checked_is_told(codenarc: Codenarc, tmp_path: Path) -> None:
    """A file whose classes can't be found is one that the rules skip."""
    (tmp_path / "unread").mkdir()
    (tmp_path / "unread/other.groovy").write_text(
        "import com.example.Nowhere\n\nvoid run(Nowhere one) { echo one.name }\n"
    )
    with pytest.raises(AssertionError, match="Compilation failed"):
        codenarc(tmp_path / "unread")
