"""Each extra as a user gets it: installed into a fresh environment with the newest versions allowed, it starts and sees mlctl."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from installed import ROOT, Installed

pytestmark = pytest.mark.timeout(900)  # a bound: an index may be slow

Make = Callable[..., Installed]
BESIDE = ("amazon", "cncf-kubernetes", "databricks", "microsoft-azure", "standard")


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Make:
    return lambda extra, *beside: Installed(tmp_path, wheel, extra, *beside)


def test_every_extra_is_here() -> None:
    """An extra without a test of its start fails here."""
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", text, re.MULTILINE))
    assert extras and extras <= {name.removeprefix("test_") for name in globals()} | {
        "azureml",
        "databricks",
        "docker",
        "kubernetes",
        "sagemaker",
    }


def test_plain(install: Make) -> None:
    """Without an extra: a new project's jobs run."""
    mlctl = install("")
    assert "mlctl" in mlctl.run("mlctl", "--version")
    answer = json.loads(mlctl.run("mlctl", "run", mlctl.project() / "jobs/train.yaml", "--json"))
    assert answer["status"]["state"] == "succeeded" and answer["metrics"]


DAG = """\
from airflow.sdk import DAG
from mlctl_airflow import MlctlTrainOperator

with DAG("demo", schedule=None):
    MlctlTrainOperator(task_id="train", job="demo/jobs/train.yaml", retries=1)
"""


SEEN = """\
from airflow.providers_manager import ProvidersManager

found = ProvidersManager()
assert found.hooks["mlctl"].hook_class_name == "mlctl_airflow.connections.MlctlHook"
print(*found.providers)
"""
OPERATORS = """\
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from airflow.providers.microsoft.azure.hooks.batch import AzureBatchHook
from airflow.providers.standard.operators.bash import BashOperator
from mlctl_airflow import MlctlTrainOperator
"""


def _airflow(made: Installed) -> None:
    """Airflow has its database, and runs a DAG with an operator."""
    made.project()
    (made.work / "demo_dag.py").write_text(DAG)
    made.environment |= {
        "AIRFLOW_HOME": str(made.work / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(made.work),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-the-tests-" * 4,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    made.run("airflow", "db", "migrate")
    said = made.run("airflow", "dags", "test", "demo")
    assert "submitted local://" in said and "accuracy" in said, said


def test_airflow(install: Make, port: int) -> None:
    """Airflow lists the provider and its connection type, runs a DAG with an operator, and its API server starts."""
    made = install("airflow")
    _airflow(made)
    assert "mlctl" in {
        one["package_name"] for one in json.loads(made.run("airflow", "providers", "list", "-o", "json"))
    }
    made.run("python", "-W", "ignore", "-c", SEEN)
    server = ("airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with made.serving(*server, health=f"http://127.0.0.1:{port}/api/v2/version"):
        pass


def test_airflow_beside_its_official_providers(install: Make) -> None:
    """One environment has the official providers of the platforms, too; their operators are imported beside ours."""
    made = install("airflow", *(f"apache-airflow-providers-{name}" for name in BESIDE))
    _airflow(made)
    seen = made.run("python", "-W", "ignore", "-c", SEEN + OPERATORS).split()
    assert {"mlctl", *(f"apache-airflow-providers-{name}" for name in BESIDE)} <= set(seen)


PIPELINE = """\
from kfp import compiler, components, dsl
import mlctl_kfp

train = components.load_component_from_file("components/train.yaml")
THIS = {"pipeline_job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "pipeline_task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER}

@dsl.pipeline
def demo():
    made = train(job="jobs/train.yaml", **THIS).set_retry(2)
    mlctl_kfp.step("batch-inference", job="jobs/predict.yaml", input_model=made.outputs["model"])

compiler.Compiler().compile(demo, "demo.yaml")
"""


def test_kfp(install: Make) -> None:
    """The command writes the components, KFP loads and compiles them."""
    made = install("kfp")
    made.run("mlctl", "kfp", "components", "components", "--image", "registry.example/mlctl:1")
    (made.work / "pipeline.py").write_text(PIPELINE)
    made.run("python", "pipeline.py")
    text = (made.work / "demo.yaml").read_text()
    assert "registry.example/mlctl:1" in text and text.count("executorLabel: exec-") == 2


FLOW = """\
from mlctl_prefect import mlctl_train
from prefect import flow

train = mlctl_train("demo/jobs/train.yaml")

@flow
def demo():
    return train().metrics["accuracy"]

print("accuracy", demo())
"""


def test_prefect(install: Make, port: int) -> None:
    """The server starts, shows the block, and a flow with a task runs against it."""
    made = install("prefect")
    made.project()
    (made.work / "flow.py").write_text(FLOW)
    made.environment |= {
        "PREFECT_HOME": str(made.work / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    server = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with made.serving(*server, health=f"http://127.0.0.1:{port}/api/health"):
        made.run("prefect", "block", "register", "-m", "mlctl_prefect")
        assert "mlctl" in made.run("prefect", "block", "type", "ls")
        assert re.search(r"^accuracy 0\.\d+", made.run("python", "flow.py"), re.MULTILINE)


def test_jenkins(install: Make) -> None:
    """The command's parts are there; the library's tree is written whole, and anew over what it wrote, and no more."""
    made = install("jenkins")
    assert {"library", "validate", "install", "trigger"} <= set(made.run("mlctl", "jenkins", "--help").split())
    made.run("python", "-c", "import jenkinsapi.jenkins, mlctl_jenkins.controller")
    tree = made.work / "library"
    (tree / ".git").mkdir(parents=True)
    (tree / "vars").mkdir()
    (tree / "vars/gone.groovy").touch()
    for _ in range(2):
        made.run("mlctl", "jenkins", "library", tree)
    here = ROOT / "integrations/jenkins"
    for part in ("vars", "src", "resources"):
        assert _files(tree / part) == _files(here / part)
    assert sorted(path.name for path in tree.iterdir()) == [".git", "resources", "src", "vars"]


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("extra", "sdk"),
    [
        ("azureml", "azure.storage.blob"),
        ("databricks", "databricks.sdk"),
        ("kfp", "kfp_server_api"),
        ("kubernetes", "kubernetes"),
        ("sagemaker", "boto3"),
    ],
)
def test_platforms(install: Make, extra: str, sdk: str) -> None:
    """The platform's SDK is there, and its backend is found and made."""
    code = f"import {sdk}; from mlctl import plugins; print(plugins.load(plugins.BACKENDS, '{extra}').__name__)"
    assert install(extra).run("python", "-c", code).strip()
