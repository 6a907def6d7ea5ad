"""Pipelines run by a stand-in for the controller, in the Groovy that Jenkins has, with the library as Jenkins loads it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import Pipelines

HERE = Path(__file__).parent
JARS = [Path("/usr/share/java/groovy-all-2.4.21.jar"), Path("/usr/share/java/groovy-all.jar")]
LEAN = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx256m"]
ARCHIVES = "-XX:+IgnoreUnrecognizedVMOptions"  # of classes: before Java 13 there are none


@pytest.fixture(scope="session")
def groovy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that start a build: java, with the harness compiled, and an archive of its classes, for a faster start."""
    groovy = next((one for one in JARS if one.exists()), None)
    java = shutil.which("java")
    if not groovy or not java:
        pytest.skip("needs Groovy 2.4, the line that Jenkins has, and a Java: apt-get install groovy")
    at = tmp_path_factory.mktemp("harness")
    classes, harness, archive = at / "classes", at / "harness.jar", at / "harness.jsa"
    sources = [str(path) for path in sorted((HERE / "harness").rglob("*.groovy"))]

    def run(*words: str) -> None:
        done = subprocess.run([java, *LEAN, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("-cp", str(groovy), "org.codehaus.groovy.tools.FileSystemCompiler", "-d", str(classes), *sources)
    shutil.make_archive(str(at / "harness"), "zip", classes)  # as a jar: no archive is made of a folder's classes
    (at / "harness.zip").rename(harness)
    build = ["-cp", f"{groovy}:{harness}", "harness.Build"]
    (at / "jenkinsfile").write_text("node { sh 'true' }")
    names = ("library", "workspace", "artifacts", "jenkinsfile", "state", "answer", "events")
    places = {name: str(at / name) for name in names}
    spec = {**places, "env": {}, "started": 0, "credentials": {}}
    (at / "spec.json").write_text(json.dumps(spec))
    run(ARCHIVES, f"-XX:ArchiveClassesAtExit={archive}", *build, str(at / "spec.json"))
    return [java, *LEAN, ARCHIVES, f"-XX:SharedArchiveFile={archive}", *build]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is shipped."""
    tree = tmp_path_factory.mktemp("library") / "tree"
    subprocess.run([sys.executable, "-m", "mlctl_jenkins.library", str(tree)], check=True)
    return tree


@pytest.fixture
def pipelines(groovy: list[str], library: Path, tmp_path: Path) -> Iterator[Pipelines]:
    made = Pipelines(groovy, library, tmp_path)
    yield made
    for build in made.builds:
        build.kill()
