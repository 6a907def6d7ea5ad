"""Pipelines run by a stand-in for the controller, in the Groovy that Jenkins has, with the library as Jenkins loads it."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def groovy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that start a build: java, with the harness compiled."""
    jar = next((one for one in JARS if one.exists()), None)
    java = shutil.which("java")
    if not jar or not java:
        pytest.skip("needs Groovy 2.4, the line that Jenkins has, and a Java: apt-get install groovy")
    classes = tmp_path_factory.mktemp("classes")
    sources = [str(path) for path in sorted((HERE / "harness").rglob("*.groovy"))]
    compiler = ["-cp", str(jar), "org.codehaus.groovy.tools.FileSystemCompiler", "-d", str(classes), *sources]
    done = subprocess.run([java, *LEAN, *compiler], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [java, *LEAN, "-cp", f"{jar}:{classes}", "harness.Build"]


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
