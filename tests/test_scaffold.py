"""What `mlctl init` makes: projects that run, and job files for scripts that are there already."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlctl import document, runtime, scaffold
from mlctl.errors import InvalidConfig, Unauthorized
from mlctl.scaffold import project
from mlctl.scaffold.yaml_text import comment, scalar

CORE = str(Path(scaffold.__file__).parents[2])
SCHEMA = '{"title": "job"}\n'
TEMPLATES = sorted(scaffold.templates())
WITH_JOBS = [name for name in TEMPLATES if (Path(scaffold.__file__).parent / "templates" / name / "jobs").is_dir()]


def job_in(path: Path) -> dict[str, Any]:
    """A job file as a YAML 1.1 reader has it, which must be what mlctl's own, 1.2, has."""
    job = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert job == document.read(path, InvalidConfig).data
    return dict(job)


def words(job: dict[str, Any], **paths: Path) -> list[str]:
    """The command of a job, run as it would be: each default for its parameter, `paths` for inputs and outputs."""
    command = job["command"].split() if isinstance(job["command"], str) else job["command"]
    given = {name: spec["default"] if isinstance(spec, dict) else spec for name, spec in job.get("params", {}).items()}

    def value(match: re.Match[str]) -> str:
        found = given[match[2]] if match[1] == "params" else paths[match[2]]
        return found if isinstance(found, str) else str(found) if isinstance(found, Path) else json.dumps(found)

    filled = [re.sub(r"\$\{\{(\w+)\.(\w+)\}\}", value, str(word)) for word in command]
    assert filled[0] == "python"
    return [sys.executable, *filled[1:]]


def ran(argv: list[str], folder: Path, **env: str) -> str:
    """What a program says on stdout; it has to succeed."""
    kept = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **env}
    done = subprocess.run(argv, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A project called wine-quality, of the template that the test names."""
    scaffold.create(tmp_path / "Wine Quality", request.param, schema=SCHEMA)
    return tmp_path / "Wine Quality"


@pytest.fixture
def not_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """A folder with a folder `jobs` in it, none of which this process may write, once it is called."""
    folder = Path(tempfile.mkdtemp())
    (folder / "jobs").mkdir()
    ours = Path(tempfile.mkdtemp())  # the checkout may be where only root can read
    ours.chmod(0o755)
    shutil.copytree(project._TEMPLATES, ours / "templates")
    shutil.copy(project._RUNTIME, ours)
    monkeypatch.setattr(project, "_TEMPLATES", ours / "templates")
    monkeypatch.setattr(project, "_RUNTIME", ours / "runtime.py")
    root = os.geteuid() == 0

    def close() -> Path:
        folder.chmod(0o755 if root else 0o555)
        if root:
            os.seteuid(65534)
        return folder

    yield close
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    for made in (folder, ours):
        shutil.rmtree(made)


# ---- projects


def test_every_template_says_in_one_line_what_it_is() -> None:
    assert {"plain", "sklearn"} <= set(WITH_JOBS)
    for line in scaffold.templates().values():
        assert line
        assert "\n" not in line


@pytest.mark.parametrize("made", TEMPLATES, indirect=True)
def test_a_project_is_whole(made: Path) -> None:
    files = tree(made)
    assert {"README.md", ".gitignore"} <= set(files)
    assert not [name for name in files if "__pycache__" in name or "dot-" in name]
    assert not re.search(b"my.project", b"".join(files.values()))
    for name, content in files.items():
        if name.endswith(".py"):
            ast.parse(content, name)


@pytest.mark.parametrize("made", WITH_JOBS, indirect=True)
def test_a_project_with_jobs_has_what_they_need(made: Path) -> None:
    files = tree(made)
    assert {"jobs/prepare.yaml", "jobs/train.yaml", "jobs/predict.yaml", "tests/test_train.py", "mlctl.yaml"} <= set(
        files
    )
    assert files["mlctl_runtime.py"] == Path(runtime.__file__).read_bytes()
    assert files["jobs/.job.schema.json"] == SCHEMA.encode()


@pytest.mark.parametrize("made", TEMPLATES, indirect=True)
def test_requirements_are_pinned_and_never_name_mlctl(made: Path) -> None:
    for path in made.rglob("*requirements*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) and not line.startswith("mlctl") for line in lines)


@pytest.mark.parametrize("made", WITH_JOBS, indirect=True)
def test_the_jobs_fit_their_scripts(made: Path) -> None:
    kinds = set()
    for path in made.glob("jobs/*.yaml"):
        job = job_in(path)
        kinds.add(job["kind"])
        assert job["name"] == f"wine-quality-{path.stem}"
        first = path.read_text().splitlines()[0]
        assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).is_file()
        for name in [
            job["code"],
            job.get("requirements", ".."),
            *[i["uri"] for i in job.get("inputs", {}).values() if "uri" in i],
        ]:
            assert (path.parent / name).exists()
        command = job["command"].split()
        script = scaffold.describe(made / command[1])
        passed = [word for word in command if word.startswith("--")]
        assert sorted(passed) == sorted(argument.flag for argument in script.arguments)
        for argument in script.arguments:
            spec = job.get("params", {}).get(argument.name.replace("-", "_"))
            if spec is not None:
                assert (spec["default"] if isinstance(spec, dict) else spec) == argument.default
    assert kinds == {"process", "train", "batch-inference"}


@pytest.mark.parametrize("made", WITH_JOBS, indirect=True)
def test_mlctl_loads_the_jobs(made: Path) -> None:
    import mlctl

    for path in made.glob("jobs/*.yaml"):
        assert mlctl.load(path).name == f"wine-quality-{path.stem}"


@pytest.mark.parametrize("made", WITH_JOBS, indirect=True)
def test_the_notebook_uses_the_same_code(made: Path) -> None:
    notebook = json.loads((made / "explore.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    program = ast.parse("\n".join("".join(cell["source"]) for cell in code))
    imports = {node.module: node for node in ast.walk(program) if isinstance(node, ast.ImportFrom)}
    script = ast.parse((made / "train.py").read_text())
    defined = {node.name for node in script.body if isinstance(node, ast.FunctionDef)}
    assert {alias.name for alias in imports["train"].names} <= defined
    run = [node for node in ast.walk(program) if isinstance(node, ast.Call) and ast.unparse(node.func) == "mlctl.run"]
    job = job_in(made / str(ast.literal_eval(run[0].args[0])))
    assert set(ast.literal_eval(run[0].keywords[0].value)) <= set(job["params"])


@pytest.mark.parametrize("made", ["plain"], indirect=True)
def test_plain_runs_offline_from_data_to_predictions(made: Path, tmp_path: Path) -> None:
    data, model, predictions = (tmp_path / name for name in ("data", "model", "predictions"))
    for folder in (data, model, predictions):
        folder.mkdir()
    ran(words(job_in(made / "jobs/prepare.yaml"), data=data), made)
    assert tree(data) == tree(made / "data")
    metrics = tmp_path / "metrics.jsonl"
    ran(words(job_in(made / "jobs/train.yaml"), data=data, model=model), made, MLCTL_METRICS_FILE=str(metrics))
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [point["step"] for point in points if point["name"] == "loss"] == list(range(10))
    assert points[-1]["name"] == "accuracy"
    assert points[-1]["value"] > 0.9
    job = job_in(made / "jobs/predict.yaml")
    ran(words(job, model=model, rows=data / "test.csv", predictions=predictions), made)
    assert len((predictions / "predictions.csv").read_text().splitlines()) == 101


@pytest.mark.parametrize("made", ["plain"], indirect=True)
def test_plain_runs_through_mlctl(made: Path) -> None:
    import mlctl

    data = mlctl.run(made / "jobs/prepare.yaml", params={"seed": 7}).result().outputs["data"]
    trained = mlctl.run(made / "jobs/train.yaml", inputs={"data": data}).result()
    assert trained.metrics["accuracy"] > 0.9
    predicted = mlctl.run(made / "jobs/predict.yaml", inputs={"model": trained.outputs["model"]}).result()
    assert (Path(predicted.outputs["predictions"]) / "predictions.csv").is_file()


@pytest.mark.parametrize("made", ["plain"], indirect=True)
def test_the_notebook_of_plain_runs(made: Path, home: Path) -> None:
    notebook = json.loads((made / "explore.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells.append("print(run.result().metrics['accuracy'] > 0.9)")
    assert ran([sys.executable, "-c", "\n".join(cells)], made, MLCTL_HOME=str(home), PYTHONPATH=CORE).endswith("True\n")


@pytest.mark.parametrize("made", ["plain"], indirect=True)
def test_plain_passes_its_own_tests(made: Path) -> None:
    assert "3 passed" in ran([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], made)


@pytest.mark.parametrize("name", ["a'; echo foo", "Ärger", "...", "x" * 200])
def test_any_folder_can_be_a_project(tmp_path: Path, name: str) -> None:
    for path in scaffold.create(tmp_path / "new" / name, "plain", schema=SCHEMA):
        assert path.is_file()
    assert re.fullmatch(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", job_in(tmp_path / "new" / name / "jobs/train.yaml")["name"]
    )


def test_the_paths_are_as_the_folder_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path("demo/train.py") in scaffold.create(Path("demo"), "plain", schema=SCHEMA)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Path("train.py") in scaffold.create(Path(), "plain", schema=SCHEMA)
    assert job_in(tmp_path / "here/jobs/train.yaml")["name"] == "here-train"


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.yaml").write_text("mine")
    scaffold.create(tmp_path, "plain", schema=SCHEMA)
    assert (tmp_path / "jobs" / "mine.yaml").read_text() == "mine"
    assert not list(tmp_path.glob(".mlctl-init-*"))


@pytest.mark.parametrize(
    ("there", "clash"),
    [
        ("train.py", "train.py"),
        ("jobs", "jobs"),
        ("tests/test_train.py", "tests/test_train.py"),
        (".gitignore", ".gitignore"),
    ],
)
def test_a_clash_is_named_and_nothing_written(tmp_path: Path, there: str, clash: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InvalidConfig, match=re.escape(f"{tmp_path / clash}: exists already")):
        scaffold.create(tmp_path, "plain", schema=SCHEMA)
    assert tree(tmp_path) == before


def test_a_dangling_link_is_a_clash(tmp_path: Path) -> None:
    (tmp_path / "train.py").symlink_to("nowhere")
    with pytest.raises(InvalidConfig, match=r"train\.py: exists already"):
        scaffold.create(tmp_path, "plain", schema=SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_file_is_no_place_for_a_project(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(InvalidConfig) as raised:
            scaffold.create(folder, "plain", schema=SCHEMA)
        assert "\n" not in str(raised.value)
    assert tree(tmp_path) == {"file": b""}


def test_an_unknown_template_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"template: got 'sklern', expected one of .*did you mean 'sklearn'"):
        scaffold.create(tmp_path / "new", "sklern", schema=SCHEMA)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    """The limit on a file's size fails a write in the middle, as a full disk does."""
    folder = tmp_path / "project"
    if exists:
        folder.mkdir()
    program = f"""
        import resource
        from pathlib import Path
        from mlctl import scaffold
        from mlctl.errors import Unavailable
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            scaffold.create(Path({str(folder)!r}), "plain", schema="x")
        except Unavailable as error:
            print(error)
    """
    said = ran([sys.executable, "-c", textwrap.dedent(program)], tmp_path, PYTHONPATH=CORE)
    assert said.count("\n") == 1
    assert "nothing was written" in said
    assert [path.name for path in tmp_path.rglob("*")] == (["project"] if exists else [])


def test_a_folder_that_is_not_ours_is_no_other_try(not_ours: Callable[[], Path]) -> None:
    folder = not_ours()
    for place in (folder, folder / "new"):
        with pytest.raises(Unauthorized, match="nothing was written") as raised:
            scaffold.create(place, "plain", schema=SCHEMA)
        assert "\n" not in str(raised.value)
    assert [path.name for path in folder.rglob("*")] == ["jobs"]


def test_what_was_moved_is_taken_back(not_ours: Callable[[], Path]) -> None:
    """jobs/ can't be written, and what comes before it was."""
    folder = not_ours()
    if os.geteuid() == 65534:
        os.seteuid(0)
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    else:
        (folder / "jobs").chmod(0o555)
        folder.chmod(0o755)
    with pytest.raises(Unauthorized, match=r"jobs.*nothing was written"):
        scaffold.create(folder, "plain", schema=SCHEMA)
    assert [path.name for path in folder.rglob("*")] == ["jobs"]


# ---- scripts that are there


@pytest.fixture
def adopted(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes a script to churn/train.py, adopts it, and gives its job."""

    def adopt(script: str, kind: str = "train") -> dict[str, Any]:
        folder = tmp_path / "churn"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(textwrap.dedent(script), encoding="utf-8")
        scaffold.adopt(folder / "train.py", schema=SCHEMA, kind=kind)
        return job_in(folder / "jobs" / "train.yaml")

    return adopt


def text_of(tmp_path: Path) -> str:
    return (tmp_path / "churn" / "jobs" / "train.yaml").read_text(encoding="utf-8")


ARGPARSE = '''
"""Train a churn model: not a "simple" one.

More of it.
"""
import argparse as ap, json
from pathlib import Path

Path("MARKER").write_text("the script ran")
LR = 1e-5
MODELS = {"small": 1, "large": 2}

def truth(text):
    if text.lower() in ("yes", "true"):
        return True
    if text.lower() in ("no", "false"):
        return False
    raise ap.ArgumentTypeError(text)

def add_training(p):
    group = p.add_argument_group("training")
    group.add_argument("-l", "--lr", type=float, default=LR, help="learning rate (default: %(default)s), in 100%%")
    group.add_argument("--epochs", type=int, default=3)
    group.add_argument("--momentum", type=float, default=1)
    group.add_argument("--model", choices=sorted(MODELS), default="small")
    group.add_argument("--shuffle", type=truth, default=True)
    group.add_argument("--verbose", type=lambda text: text.lower() == "true", default=False)
    group.add_argument("--seed", type=int, default=2 ** 10 - 1)
    group.add_argument("--text", default="no")
    group.add_argument("--odd", default="- a: 'b' # \\"c\\"\\n\\té\\U0001f600\\x7f ${{params.lr}}")
    group.add_argument("--minus", default="-x")
    group.add_argument("--empty", default="")
    group.add_argument("-k", type=int, default=-5)
    group.add_argument("-e", default="")
    group.add_argument("--C", default="upper")
    group.add_argument("--c", default="lower")
    group.add_argument("--learning-rate-schedule", dest="schedule", default="cosine")
    group.add_argument("--fast", action="store_true", help="skip the slow part")
    group.add_argument("--cache", action=ap.BooleanOptionalAction, default=True)
    group.add_argument("--layers", type=int, nargs="+", default=[64, 32])
    group.add_argument("--tag", action="append")
    group.add_argument("--device", default=None)
    group.add_argument("--untyped", default=5)
    group.add_argument("--trap", type=bool, default=False)
    group.add_argument("--size", type=int, default=1.5)
    group.add_argument("--where", default=Path(__file__).name)
    group.add_argument("--override", type=int, default=1)
    p.set_defaults(override=2)

def main():
    parser = ap.ArgumentParser(description="x")
    add_training(parser)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--one", default="1")
    either.add_argument("--two", default="2")
    for name in ("x", "y"):
        parser.add_argument(f"--{name}")
    if parser:
        parser.add_argument("--sometimes", default="s")
    print(json.dumps(vars(parser.parse_args()), default=str))

if __name__ == "__main__":
    main()
'''


def test_argparse_runs_unchanged(adopted: Any, tmp_path: Path) -> None:
    job = adopted(ARGPARSE)
    folder = tmp_path / "churn"
    assert sorted(tree(folder)) == ["jobs/.job.schema.json", "jobs/train.yaml", "mlctl.yaml", "train.py"]
    script = [sys.executable, "train.py"]
    assert json.loads(ran(words(job), folder)) == json.loads(ran(script, folder))


def test_argparse_as_a_job(adopted: Any, tmp_path: Path) -> None:
    job = adopted(ARGPARSE)
    assert not (tmp_path / "churn" / "MARKER").exists()
    assert job["kind"] == "train"
    assert job["name"] == "churn-train"
    assert job["description"] == 'Train a churn model: not a "simple" one.'
    assert job["code"] == ".."
    assert "requirements" not in job
    assert job["command"][:4] == ["python", "train.py", "--lr=${{params.lr}}", "--epochs=${{params.epochs}}"]
    params = job["params"]
    assert params["lr"] == {"type": "number", "default": 1e-5, "description": "learning rate, in 100%"}
    assert params["epochs"] == 3
    assert params["momentum"] == {"type": "number", "default": 1}
    assert params["model"] == {"type": "string", "default": "small", "enum": ["small", "large"]}
    assert (params["shuffle"], params["verbose"], params["text"], params["seed"]) == (True, False, "no", 1023)
    assert (params["C"], params["c"], params["override"], params["schedule"]) == ("upper", "lower", 2, "cosine")
    assert "inputs" not in job
    assert "outputs" not in job
    text = text_of(tmp_path)
    for flag in (
        "-e",
        "--fast",
        "--cache",
        "--layers",
        "--tag",
        "--device",
        "--untyped",
        "--trap",
        "--size",
        "--where",
        "--one",
    ):
        assert not [word for word in job["command"] if word.startswith(flag)]
        assert re.search(rf"^  # - {flag}.* # \S", text, re.MULTILINE), flag
    assert "a flag; skip the slow part" in text
    assert "its default, 5, has no type=: a command line would make it text" in text
    assert "its default, 1.5, is not what its type makes of text" in text
    assert re.search(
        r"^#   train\.py:\d+: an argument whose name is only known when the script runs$", text, re.MULTILINE
    )


def test_a_flag_is_switched_on_by_its_comment(adopted: Any, tmp_path: Path) -> None:
    adopted(ARGPARSE)
    path = tmp_path / "churn" / "jobs" / "train.yaml"
    for flag in ("--fast", "--device=VALUE", "--no-cache"):
        line = re.search(rf"^  # - {flag.replace('no-', '')} .*$", path.read_text(), re.MULTILINE)
        assert line
        path.write_text(
            path.read_text().replace(line[0], line[0].replace("# ", "", 1).replace("--cache", "--no-cache"))
        )
    said = json.loads(ran(words(job_in(path)), tmp_path / "churn"))
    assert (said["fast"], said["device"], said["cache"]) == (True, "VALUE", False)


def test_mlctl_loads_what_it_wrote(adopted: Any, tmp_path: Path) -> None:
    import mlctl

    for script in (ARGPARSE, SAGEMAKER, CLICK):
        adopted(script)
        assert mlctl.load(tmp_path / "churn" / "jobs" / "train.yaml").name == "churn-train"
        shutil.rmtree(tmp_path / "churn")


SAGEMAKER = """
    import argparse, json, os

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=10)
        parser.add_argument("--lr", type=float, default=os.environ.get("SM_HP_LR", 0.1))
        parser.add_argument("--batch-size", type=int, default=int(os.environ.get("BATCH", "64")))
        parser.add_argument("--hosts", type=list, default=json.loads(os.environ["SM_HOSTS"]))
        parser.add_argument("--num-gpus", type=int, default=os.environ["SM_NUM_GPUS"])
        parser.add_argument("--model-dir", type=str, default=os.environ["SM_MODEL_DIR"])
        parser.add_argument("--output-data-dir", type=str, default=os.environ.get("SM_OUTPUT_DATA_DIR"))
        parser.add_argument("--train", type=str, default=os.environ["SM_CHANNEL_TRAIN"])
        parser.add_argument("--test", type=str, default=os.getenv("SM_CHANNEL_TEST", "/opt/ml/input/data/test"))
        args, _ = parser.parse_known_args()
        extra = os.environ["SM_CHANNEL_EXTRA"]
        given = json.loads(os.environ["SM_HPS"])
        momentum = float(os.environ.get("SM_HP_MOMENTUM", "0.9"))
        key = os.environ["TRACKER_KEY"]
        home = os.environ["HOME"]
        checkpoints = "/opt/ml/checkpoints"
        print(json.dumps(vars(args)))
"""


def test_sagemaker_runs_unchanged(adopted: Any, tmp_path: Path) -> None:
    job = adopted(SAGEMAKER)
    variables = {
        "SM_HOSTS": '["algo-1"]', "SM_NUM_GPUS": "0", "SM_MODEL_DIR": "/m", "SM_OUTPUT_DATA_DIR": "/o", "SM_CHANNEL_TRAIN": "/t",
        "SM_CHANNEL_TEST": "/e", "SM_CHANNEL_EXTRA": "/x", "SM_HPS": "{}", "TRACKER_KEY": "k", "HOME": "/",
    }  # fmt: skip
    paths = {"model": Path("/m"), "output": Path("/o"), "train": Path("/t"), "test": Path("/e")}
    folder = tmp_path / "churn"
    assert json.loads(ran(words(job, **paths), folder, **variables)) == json.loads(
        ran([sys.executable, "train.py"], folder, **variables)
    )


def test_sagemaker_runs_through_mlctl(adopted: Any, tmp_path: Path) -> None:
    import mlctl

    script = (
        SAGEMAKER.replace('os.environ["TRACKER_KEY"]', "None")
        + """
        with open(os.path.join(args.model_dir, "model"), "w") as file:
            file.write(open(os.path.join(args.train, "rows.csv")).read())
    """
    )
    adopted(script)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("rows")
    inputs = dict.fromkeys(("train", "test", "extra"), str(tmp_path / "data"))
    result = mlctl.run(tmp_path / "churn" / "jobs" / "train.yaml", inputs=inputs).result()
    assert (Path(result.outputs["model"]) / "model").read_text() == "rows"


def test_sagemaker_as_a_job(adopted: Any, tmp_path: Path) -> None:
    job = adopted(SAGEMAKER)
    assert job["platforms"] == {"local": {"layout": "sagemaker"}}
    assert job["inputs"] == {"train": {}, "test": {}, "extra": {}}
    assert job["outputs"] == {"model": {"type": "model"}, "output": {"type": "artifact"}}
    assert job["params"] == {"epochs": 10, "lr": 0.1, "batch_size": 64, "momentum": "0.9"}
    assert "--train=${{inputs.train}}" in job["command"]
    assert "--model-dir=${{outputs.model}}" in job["command"]
    text = text_of(tmp_path)
    assert "--input train=ADDRESS, a folder, as SageMaker's channels are" in text
    assert re.search(r"# - --num-gpus=VALUE +# its default is SM_NUM_GPUS", text)
    assert re.search(r"^#   train\.py:\d+: '/opt/ml/checkpoints' is there on SageMaker only", text, re.MULTILINE)
    assert "the environment variable TRACKER_KEY has to be set" in text
    assert "SM_HPS holds the job's parameters" in text
    assert "HOME" not in text
    assert "/opt/ml/input" not in text


CLICK = """
    import json
    import click
    from click import option

    seed = option("--seed", default=3)

    @click.command()
    @click.argument("data", type=click.Path(exists=True))
    @click.argument("more", nargs=-1)
    @click.option("--lr", "-l", "rate", type=float, default=1, show_default=True, help="The rate.")
    @option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd")
    @option("--epochs", type=click.IntRange(1, 100), default=3)
    @option("--share", type=click.FloatRange(0, 1, min_open=True), default=.5)
    @option("--balance", default=True)
    @option("--text", type=str, default=5)
    @option("-n", default=2)
    @option("--fast", is_flag=True)
    @option("--cache/--no-cache", default=True)
    @option("--layer", multiple=True, type=int)
    @option("--pair", nargs=2, type=int)
    @option("--log", type=click.File("w"), default="-")
    @option("--who", prompt=True)
    @option("--password", prompt=True, hide_input=True, envvar="TRACKER_KEY")
    @option("--name")
    @option("--out", "-o", type=click.Path(), required=True)
    @seed
    @click.pass_context
    def main(ctx, **given):
        print(json.dumps(given, default=lambda value: value.name))

    if __name__ == "__main__":
        main()
"""


def test_click_as_a_job(adopted: Any, tmp_path: Path) -> None:
    job = adopted(CLICK)
    assert job["params"] == {
        "rate": {"type": "number", "default": 1, "description": "The rate."},
        "optimizer": {"type": "string", "default": "sgd", "enum": ["sgd", "adam"]},
        "epochs": {"type": "integer", "default": 3, "minimum": 1, "maximum": 100},
        "share": 0.5, "balance": True, "text": "5", "n": 2, "log": "-", "who": {"type": "string"}, "seed": 3,
    }  # fmt: skip
    assert job["inputs"] == {"data": {}}
    assert job["outputs"] == {"out": {"type": "artifact"}}
    assert job["requirements"] == "../requirements.txt"
    assert (tmp_path / "churn" / "requirements.txt").read_text().splitlines()[1:] == ["click"]
    text = text_of(tmp_path)
    assert "--password has to be given, and isn't: a secret" in text
    for flag, why in (
        ("--fast", "a flag"),
        ("--cache", "a flag, or --no-cache"),
        ("--password=VALUE", "a secret"),
        ("VALUE", "more: "),
    ):
        assert re.search(rf"^  # - {flag} +# {why}", text, re.MULTILINE), flag


def test_click_runs_unchanged(adopted: Any, tmp_path: Path) -> None:
    job = adopted(CLICK)
    folder = tmp_path / "churn"
    job["params"]["who"] = "me"
    argv = words(job, data=folder, out=tmp_path)
    plain = [sys.executable, "train.py", str(folder), "--out", str(tmp_path), "--who", "me"]
    assert json.loads(ran(argv, folder, TRACKER_KEY="k")) == json.loads(ran(plain, folder, TRACKER_KEY="k"))


def test_typer_as_a_job(adopted: Any, tmp_path: Path) -> None:
    job = adopted("""
        from pathlib import Path
        from typing import Annotated, Literal, Optional
        import typer

        app = typer.Typer()

        @app.command()
        def main(
            data: Path,
            rate: float = 0.1,
            epochs: Annotated[int, typer.Option("--n", help="How many.", min=1)] = 3,
            out: Path = typer.Option(..., "-o", "--out-dir"),
            kind: Literal["a", "b"] = "a",
            fast: bool = False,
            name: Optional[str] = None,
            sizes: list[int] = [1],
            other: str = typer.Argument("z"),
        ): ...

        app()
    """)
    assert job["command"][2:] == [
        "${{inputs.data}}", "${{params.other}}", "--rate=${{params.rate}}", "--n=${{params.epochs}}", "--out-dir=${{outputs.out}}",
        "--kind=${{params.kind}}",
    ]  # fmt: skip
    assert job["params"]["epochs"] == {"type": "integer", "default": 3, "minimum": 1, "description": "How many."}
    assert job["params"]["kind"]["enum"] == ["a", "b"]
    text = text_of(tmp_path)
    assert all(re.search(rf"# - --{flag}", text) for flag in ("fast", "name=VALUE", "sizes=VALUE"))


PATHS = """
    import argparse, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("rows")
    parser.add_argument("--train-data", default="data/train.csv")
    parser.add_argument("--test", default="elsewhere/test.csv")
    parser.add_argument("--validationFile", required=True)
    parser.add_argument("--inputs-root", default="s3://bucket/data")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--data-format", default="csv")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--model", default="resnet")
    parser.add_argument("--model-dir", default="models")
    parser.add_argument("--output-dir", default="out")
    parser.add_argument("--out-csv", default="all.csv")
    parser.add_argument("--save-to", default="best.pt")
    parser.add_argument("--save-path")
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--checkpoint-dir", required=True)
    parser.add_argument("--checkpoint")
    parser.add_argument("--pretrained", default="weights/base.pt")
    parser.add_argument("--log-dir", default="logs")
    parser.add_argument("--report", type=argparse.FileType("w"), default=sys.stdout)
    parser.add_argument("--labels", type=argparse.FileType("r"), required=True)
    parser.add_argument("--token", required=True)
"""


def test_paths_are_told_by_their_names(adopted: Any, tmp_path: Path) -> None:
    (tmp_path / "churn" / "data").mkdir(parents=True)
    (tmp_path / "churn" / "data" / "train.csv").touch()
    job = adopted(PATHS)
    assert job["inputs"] == {
        "train_data": "../data/train.csv", "test": {}, "validation": {}, "inputs": "s3://bucket/data", "data": {}, "labels": {},
        "pretrained": {"type": "model"},
    }  # fmt: skip
    assert job["outputs"] == {
        "model": {"type": "model"}, "output": {"type": "artifact"}, "out_csv": {"type": "artifact"}, "save_to": {"type": "model"},
        "checkpoint": {"type": "model"}, "log": {"type": "artifact"},
    }  # fmt: skip
    assert set(job["params"]) == {"rows", "input_size", "data_format", "dataset", "model", "save_every", "token"}
    command = job["command"]
    assert command[2] == "${{params.rows}}"
    assert "--out-csv=${{outputs.out_csv}}/all.csv" in command
    assert "--save-to=${{outputs.save_to}}/best.pt" in command
    text = text_of(tmp_path)
    assert "the script's own default, 'elsewhere/test.csv', isn't here" in text
    assert "--input data=ADDRESS; the script can do without" in text
    assert "--token looks like a secret" in text
    assert all(re.search(rf"# - --{flag}", text) for flag in ("train ", "save-path=", "checkpoint=", "report="))


def test_a_model_is_read_where_it_is_applied(adopted: Any) -> None:
    script = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--model", required=True)
        parser.add_argument("--model-dir", default="model")
    """
    job = adopted(script, "batch-inference")
    assert job["inputs"] == {"model": {"type": "model"}, "model_2": {"type": "model"}}
    assert "outputs" not in job


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("import hydra", "hydra reads the command line in its own way"),
        ("from absl import flags, app", "absl reads the command line in its own way"),
        ("import fire\nfire.Fire(print)", "fire reads the command line in its own way"),
        ("from transformers import HfArgumentParser", "HfArgumentParser reads the command line"),
        ("import sys\nprint(sys.argv[1])", "sys.argv is read by the script itself"),
        ("from sys import argv\nlr = argv[1:]", "sys.argv is read by the script itself"),
        ("import mlctl.runtime", "imports mlctl: a job has no mlctl installed"),
        ("import google.ads.x", "imports google.ads.x: add the distribution"),
        ("import distutils.util, sys" if sys.version_info >= (3, 12) else "import asyncore_gone", ""),
        ("import os\nos.environ['RANK']", "the environment variable RANK has to be set: distribution: sets it"),
        ("from options import parser\nparser.parse_args()", "options.py: defines arguments, which were not read"),
        ("from broken import x", "broken.py:1: not Python"),
    ],
)
def test_what_is_not_understood_is_said(adopted: Any, tmp_path: Path, script: str, note: str) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / "options.py").write_text("parser.add_argument('--x')")
    (tmp_path / "churn" / "broken.py").write_text("print 'x'")
    job = adopted(script)
    assert job["command"] == ["python", "train.py"]
    assert note in text_of(tmp_path)


def test_subcommands_are_left_to_the_reader(adopted: Any, tmp_path: Path) -> None:
    job = adopted("""
        import argparse

        def common(p):
            p.add_argument("--shared", default="x")

        parser = argparse.ArgumentParser()
        parser.add_argument("--verbose", type=int, default=1)
        commands = parser.add_subparsers()
        train = commands.add_parser("train")
        train.add_argument("--lr", default="0.1")
        train.set_defaults(verbose=3, run=print)
        test = commands.add_parser("test")
        common(train)
        common(test)
    """)
    assert job["command"] == ["python", "train.py", "--verbose=${{params.verbose}}"]
    assert job["params"] == {"verbose": 1}
    assert "subcommands (train, test)" in text_of(tmp_path)


def test_click_subcommands_too(adopted: Any, tmp_path: Path) -> None:
    job = adopted("""
        import click

        @click.group()
        @click.option("--verbose", default=1)
        def cli(verbose): ...

        @cli.command()
        @click.option("--lr", default=0.1)
        def train(lr): ...

        @cli.command()
        def test(): ...
    """)
    assert job["command"] == ["python", "train.py", "--verbose=${{params.verbose}}"]
    assert "subcommands (train, test)" in text_of(tmp_path)


def test_arguments_that_share_a_name_are_left_out(adopted: Any) -> None:
    job = adopted("""
        from argparse import ArgumentParser
        parser = ArgumentParser()
        parser.add_argument("--lr", type=float, default=0.1)
        parser.add_argument("--rate", dest="lr", type=float, default=0.2)
        parser.add_argument(*("-q", "--quick"), default="slow")
        parser.add_argument("--more", **{"default": 1})
    """)
    assert job["params"] == {"quick": "slow"}


def test_nothing_takes_the_place_of_a_positional_word(adopted: Any, tmp_path: Path) -> None:
    job = adopted("""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("first")
        parser.add_argument("second", nargs="?")
        parser.add_argument("third", nargs="?", default="x")
        parser.add_argument("--option", default="y")
    """)
    assert job["command"][2:] == ["${{params.first}}", "--option=${{params.option}}"]
    assert re.search(r"# - VALUE +# third: stands behind one that is left out", text_of(tmp_path))


def test_a_browser_is_not_a_parser(adopted: Any) -> None:
    job = adopted("""
        from selenium.webdriver import ChromeOptions
        options = ChromeOptions()
        options.add_argument("--headless")
    """)
    assert job["command"] == ["python", "train.py"]


def test_a_module_of_a_package_runs_as_one(tmp_path: Path) -> None:
    """Relative imports need `-m`, and modules in src/ a path."""
    package = tmp_path / "src" / "churn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model.py").write_text("def fit(): return 'fitted'")
    (package / "train.py").write_text("from .model import fit\nprint(fit())")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".git").mkdir()
    assert scaffold.adopt(package / "train.py", schema=SCHEMA)[0] == tmp_path / "jobs" / "train.yaml"
    job = job_in(tmp_path / "jobs" / "train.yaml")
    assert job["command"] == ["python", "-m", "churn.train"]
    assert job["env"] == {"PYTHONPATH": "src"}
    assert ran(words(job), tmp_path, **job["env"]) == "fitted\n"


def test_a_script_below_finds_the_modules_of_its_project(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "model.py").write_text("import torch_like_thing")
    (tmp_path / "scripts" / "train.py").write_text("from model import fit")
    scaffold.adopt(tmp_path / "scripts" / "train.py", schema=SCHEMA, folder=tmp_path)
    job = job_in(tmp_path / "jobs" / "train.yaml")
    assert job["command"] == ["python", "scripts/train.py"]
    assert job["env"] == {"PYTHONPATH": "."}
    assert (tmp_path / "requirements.txt").read_text().splitlines()[1:] == ["torch_like_thing"]


def test_requirements_are_what_is_imported(adopted: Any, tmp_path: Path) -> None:
    (tmp_path / "churn" / "helpers").mkdir(parents=True)
    (tmp_path / "churn" / "helpers" / "__init__.py").write_text("from . import images")
    (tmp_path / "churn" / "helpers" / "images.py").write_text("import cv2, skimage.io")
    (tmp_path / "churn" / "wandb").mkdir()  # what wandb writes to, and no module
    adopted("""
        from __future__ import annotations
        import os, json, mlctl, yaml, wandb
        import sklearn.linear_model as lm
        import helpers
        from typing import TYPE_CHECKING
        from google.cloud.storage import Client
        if TYPE_CHECKING:
            import pandas
        try:
            import xgboost
        except ImportError:
            import lightgbm
        def late():
            from bs4 import BeautifulSoup
    """)
    lines = (tmp_path / "churn" / "requirements.txt").read_text().splitlines()
    assert lines[1:8] == [
        "PyYAML", "beautifulsoup4", "google-cloud-storage", "opencv-python", "scikit-image", "scikit-learn", "wandb",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines[8:]] == ["lightgbm", "xgboost"]
    assert not any(line.startswith("mlctl") for line in lines)


def test_requirements_that_are_there_are_used(adopted: Any, tmp_path: Path) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / "requirements.txt").write_text("numpy==1.0\n")
    assert adopted("import torch")["requirements"] == "../requirements.txt"
    assert (tmp_path / "churn" / "requirements.txt").read_text() == "numpy==1.0\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 can't read TOML")
def test_a_projects_dependencies_are_copied(adopted: Any, tmp_path: Path) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2.1", "mlctl==9", "numpy"]\n'
    )
    adopted("import torch")
    assert (tmp_path / "churn" / "requirements.txt").read_text().splitlines()[1:] == ["torch>=2.1", "numpy"]


def test_a_second_script_of_a_project_gets_its_job_only(adopted: Any, tmp_path: Path) -> None:
    adopted("import torch")
    folder = tmp_path / "churn"
    (folder / "jobs" / ".job.schema.json").write_text("older")
    (folder / "Évaluer le modèle.py").touch()
    made = scaffold.adopt(folder / "Évaluer le modèle.py", schema=SCHEMA, kind="process")
    assert made == [folder / "jobs" / "valuer-le-mod-le.yaml"]
    job = job_in(made[0])
    assert job["kind"] == "process"
    assert job["command"] == ["python", "Évaluer le modèle.py"]
    assert (folder / "jobs" / ".job.schema.json").read_text() == "older"


def test_a_configuration_further_up_is_enough(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "mlctl.yaml").touch()
    (tmp_path / "team" / "churn").mkdir(parents=True)
    (tmp_path / "team" / "churn" / "train.py").touch()
    scaffold.adopt(tmp_path / "team" / "churn" / "train.py", schema=SCHEMA, folder=tmp_path / "team" / "churn")
    assert sorted(tree(tmp_path / "team" / "churn")) == ["jobs/.job.schema.json", "jobs/train.yaml", "train.py"]


def test_a_job_that_is_there_is_not_written_over(adopted: Any, tmp_path: Path) -> None:
    adopted("import torch")
    before = tree(tmp_path)
    with pytest.raises(InvalidConfig, match=r"jobs/train\.yaml: exists already"):
        scaffold.adopt(tmp_path / "churn" / "train.py", schema=SCHEMA)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\nprint 'two'\n", r"train\.py:2: not Python 3\.\d+: Missing parentheses"),
        (b"x = 1\n\nx = = 2\n", r"train\.py:3: not Python 3\.\d+: invalid syntax"),
        (b"x = 1\ny = '\0'\n", r"train\.py:2: not Python 3\.\d+: holds a null byte"),
        (b"x = 1\n# caf\xe9\n", r"train\.py:2: not Python 3\.\d+: not utf-8"),
        (b"# coding: nonsense\n", r"train\.py:1: not Python 3\.\d+: unknown encoding"),
        (b"x = 1\n" * 10_000_000, r"train\.py: larger than 1 MiB"),
        (b"x = " + b"(" * 300 + b")" * 300, r"train\.py:1: not Python 3\.\d+: too many nested parentheses"),
        (b"x = " + b"-" * 200_000 + b"1", r"train\.py: not Python 3\.\d+: |train\.py:1: not Python"),
    ],
    ids=["python 2", "syntax", "null byte", "latin-1", "encoding", "60 MB", "parentheses", "deep"],
)
def test_what_is_not_python_is_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    script = tmp_path / "train.py"
    script.write_bytes(content)
    with pytest.raises(InvalidConfig, match=message) as raised:
        scaffold.adopt(script, schema=SCHEMA)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_what_is_no_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.ipynb").touch()
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "train.py").touch()
    for name, message in (
        ("none.py", "no such file"), ("train.ipynb", "whose name ends in .py"), ("folder.py", "is not a file"),
        ("pipe.py", "is not a file"), ("a\0.py", "null byte"),
    ):  # fmt: skip
        with pytest.raises(InvalidConfig, match=message) as raised:
            scaffold.adopt(tmp_path / name, schema=SCHEMA)
        assert "\n" not in str(raised.value)
    with pytest.raises(InvalidConfig, match=r"train\.py: expected a script below .*elsewhere"):
        scaffold.adopt(tmp_path / "train.py", schema=SCHEMA, folder=tmp_path / "elsewhere")
    with pytest.raises(InvalidConfig, match=r"kind: got 'trane', expected one of .*did you mean 'train'"):
        scaffold.adopt(tmp_path / "train.py", schema=SCHEMA, kind="trane")


@pytest.mark.parametrize(
    "script",
    [
        "a = b = c\nb = a\na = b\nimport argparse\nargparse.ArgumentParser().add_argument('--x', default=a)",
        "x = 9**9**9**9\nimport argparse\nargparse.ArgumentParser().add_argument('--x', type=int, default=x, choices=range(10**9))",
        "\n".join(f"v{i} = v{i + 1} + v{i + 1}" for i in range(100)) + "\np.add_argument('--x', default=v0)",
        "p.add_argument()\np.add_argument('')\np.add_argument(None)\np.add_argument(*x, **y)\nadd_argument('--z')",
        "p.add_argument('--x', default='\\ud800', help='\\ud800\\n# a: b')\np.add_argument('--' + 'joined', default='\\\\d')",
        "p.add_argument('--a b', default='c')\np.add_argument('--é', default='ü')\np.add_argument('--1', default='2')",
        "import re\nre.compile('\\d')\nassert (1, 'a warning')\np.add_argument('--x', type=float, default='nan')",
        "x" + ".x" * 700,
    ],
)  # fmt: skip
def test_nothing_in_a_script_breaks_its_job(adopted: Any, tmp_path: Path, script: str) -> None:
    import mlctl

    assert adopted(script)["command"][:2] == ["python", "train.py"]
    mlctl.load(tmp_path / "churn" / "jobs" / "train.yaml")


def means_the_same(value: str | float | bool, path: Path) -> None:
    """To readers of YAML 1.1 and of 1.2, in a block, a list and a flow mapping."""
    text = f"block: {scalar(value)}\nitems:\n  - {scalar(value)}\nflow: {{one: {scalar(value, flow=True)}}}\n"
    path.write_text(text + f"# {comment(str(value))}\n", encoding="utf-8", newline="")
    read = job_in(path)
    assert read == {"block": value, "items": [value], "flow": {"one": value}}
    assert type(read["block"]) is type(value)


@given(
    st.one_of(st.text(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
)
def test_any_value_means_the_same_in_yaml(tmp_path: Path, value: str | float | bool) -> None:
    means_the_same(value, tmp_path / "job.yaml")


WORDS = [
    "no",
    "1e3",
    "1_000",
    "0x1",
    "2020-01-01",
    "1:30",
    "a: b",
    "a #b",
    "- a",
    "...",
    "null",
    "=",
    "<<",
    "é",
    ".5",
    "-.inf",
    "y",
]


@pytest.mark.parametrize("value", [*WORDS, 1e-05, 1e22, 5e-324, -0.0])
def test_what_yaml_could_take_for_something_else(tmp_path: Path, value: str | float) -> None:
    means_the_same(value, tmp_path / "job.yaml")
