"""What the README promises a newcomer, from the repository and from a wheel. Installs packages, so it needs an index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlctl import cli, document, errors, schemas
from mlctl.errors import InvalidConfig

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; fails with all that it said unless it succeeds."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module, so that an environment is built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCTL_HOME", str(home))


def result_of(job: str) -> dict[str, dict[str, object]]:
    answer: dict[str, dict[str, object]] = json.loads(run("mlctl", "describe", job, "--json", cwd=ROOT))
    return answer


@pytest.fixture(autouse=True)
def use_this_mlctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_example_trains_a_model_seeded_and_changed_by_a_parameter() -> None:
    script = ROOT / "examples/01-local/run.sh"
    said = run(script, cwd=ROOT)
    first = {job: result_of(job) for job in ("digits-process", "digits-train", "digits-batch-inference")}
    model = Path(str(first["digits-train"]["outputs"]["model"]))
    assert f"the model is in {model}" in said
    assert (model / "model.joblib").stat().st_size > 1000
    assert first["digits-process"]["metrics"] == {"train_rows": 1347, "test_rows": 450}
    assert float(str(first["digits-train"]["metrics"]["accuracy"])) > 0.9
    assert first["digits-batch-inference"]["metrics"] == {
        "predicted_rows": 450,
        "accuracy": first["digits-train"]["metrics"]["accuracy"],
    }
    predictions = Path(str(first["digits-batch-inference"]["outputs"]["predictions"])) / "predictions.csv"
    assert len(predictions.read_text().splitlines()) == 450

    run(script, cwd=ROOT)
    again = result_of("digits-train")
    assert again["run"] != first["digits-train"]["run"]
    assert again["metrics"] == first["digits-train"]["metrics"]
    same = [Path(str(one["outputs"]["model"])) / "model.joblib" for one in (first["digits-train"], again)]
    assert same[0].read_bytes() == same[1].read_bytes()

    run(script, "--param", "epochs=2", "--param", "alpha=0.1", cwd=ROOT)
    assert result_of("digits-train")["metrics"] != first["digits-train"]["metrics"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with a wheel of this checkout and nothing else of it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("mlctl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"mlctl/py.typed", "mlctl/schema/job.json", "mlctl/schema/config.json", "mlctl/runtime.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "core/"))]
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = [folder / "venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    run(*pip, "--require-hashes", "-r", ROOT / "locks/core.txt", cwd=folder)
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "venv/bin"


@pytest.mark.parametrize("template", ["plain", "sklearn"])
def test_new_project_runs_from_a_wheel_outside_the_repository(
    template: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{installed}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("mlctl") == str(installed / "mlctl")
    run("mlctl", "init", "demo", "--template", template, cwd=tmp_path)
    demo = tmp_path / "demo"
    run("mlctl", "validate", *sorted(demo.glob("jobs/*.yaml")), cwd=demo)
    answer = json.loads(run("mlctl", "run", "jobs/train.yaml", "--json", cwd=demo))
    assert answer["status"]["state"] == "succeeded"
    assert answer["metrics"]
    assert any(Path(answer["outputs"]["model"]).iterdir())


def test_what_the_readme_shows_works_as_typed(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{installed}{os.pathsep}{os.environ['PATH']}")
    (block,) = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    typed = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    assert len(typed) >= 5
    said = run("sh", "-e", "-c", "\n".join(typed), cwd=tmp_path)
    assert "succeeded" in said
    (python,) = [
        each
        for each in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "import mlctl" in each
    ]
    shown = run(
        installed / "python",
        "-c",
        python.replace("run.result().metrics,", "print(run.result().metrics),"),
        cwd=tmp_path / "demo",
    )
    assert "accuracy" in shown


def test_backend_template_passes_the_contract_as_it_is(tmp_path: Path) -> None:
    run("mlctl", "init", "acme-cloud", "--template", "backend", cwd=tmp_path)
    project = tmp_path / "acme-cloud"
    assert (project / "acme_cloud/__init__.py").is_file()
    assert "my_project" not in "".join(path.read_text() for path in project.rglob("*") if path.is_file())
    said = run(sys.executable, "-m", "pytest", "-q", cwd=project)
    assert " passed" in said
    assert "failed" not in said


def test_help_and_import_bring_nothing_heavy() -> None:
    code = "import mlctl, mlctl.cli, sys; mlctl.cli.run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stderr.split())
    assert not loaded & {
        "yaml",
        "jsonschema",
        "pathspec",
        "platformdirs",
        "mlctl.api",
        "mlctl.backends.local",
        "asyncio",
    }


def test_generated_files_are_up_to_date() -> None:
    run(sys.executable, ROOT / "tools/generate.py", "--check", cwd=ROOT)


def test_yaml_in_the_docs_is_valid(tmp_path: Path) -> None:
    """Every YAML block that is a whole job or a whole configuration passes its schema."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL):
            parsed = document.parse(block.encode(), path.name, InvalidConfig)
            schema = "job" if "kind" in parsed.data else "config"
            if schema == "job" or "targets" in parsed.data:
                schemas.check(parsed, schema)
                found.append(schema)
    assert sorted(set(found)) == ["config", "job"]


def test_docs_name_every_command_and_exit_code() -> None:
    text = (ROOT / "docs/command-line.md").read_text()
    assert [name for name in cli.COMMANDS if f"`{name}" not in text and f"mlctl {name}" not in text] == []
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and isinstance(getattr(error, "exit_code", None), int)
    }
    assert [code for code in {*codes, 0, 1, 124, 130} if f"| {code} |" not in text] == []
