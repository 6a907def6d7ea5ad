"""Who waits for runs that go on, and the stand-in that they ask; each in a process of its own.

    waiting.py serve PLATFORM RUNS          prints the stand-in's address and the variables of who asks it, in JSON;
                                            then, for each line it reads, the calls since the last
    waiting.py ask PLATFORM RUNS WHO URL    says ready; for each line it reads, one round over all runs, and the CPU that it took

`mlctl` is mlctl's own loop; `each` asks for every run by itself, as Airflow's operators do: boto3's Describe, and an HTTP
request of `runs/get`, on one connection that stays open, which is less than those operators do. Airflow has no operator for
Azure ML: there it is the GET of a job that azure-ai-ml's `jobs.get` sends, on such a connection.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Served = tuple[str, dict[str, str], Callable[[], int]]
ACCOUNT, REGION = "123456789012", "eu-west-1"
FIRST = 10**14  # Databricks' run ids
TOKEN = "dapi-test"  # the stand-in's
FOLDER = "/Volumes/main/ml/mlctl/bench"
WORKSPACE = ("00000000-1111-2222-3333-444444444444", "ml", "churn")  # Azure ML's stand-in's: subscription, group, name


def name(number: int) -> str:
    return f"bench-{number:05}-aaaaaaaaaaaaaaaa-0"


def sagemaker(runs: int) -> Served:
    """A stand-in with training jobs that go on."""
    from sagemaker_standin import Job, StandIn

    made, now = StandIn(), datetime.now(timezone.utc)
    request = {
        "AlgorithmSpecification": {"TrainingImage": f"{ACCOUNT}.dkr.ecr/churn:1", "TrainingInputMode": "File"},
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/ml-train",
        "OutputDataConfig": {"S3OutputPath": "s3://ml-jobs/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
    }
    for number in range(runs):
        job = Job(
            "Training", ACCOUNT, REGION, {**request, "TrainingJobName": name(number)}, now - timedelta(seconds=number)
        )
        job.begin()
        made.jobs[ACCOUNT, REGION, "Training", job.name] = job
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "none"}
    return made.url, {**keys, "AWS_ENDPOINT_URL": made.url}, lambda: counted(made.calls)


def databricks(runs: int) -> Served:
    """A stand-in with runs that go on."""
    from databricks_standin import Standin

    made = Standin(Path(tempfile.mkdtemp()), executes=False)
    task = {"task_key": "job", "spark_python_task": {"python_file": f"{FOLDER}/launcher.py", "parameters": []}}
    for number in range(runs):
        made.runs[FIRST + number] = {
            "run_id": FIRST + number, "run_name": name(number), "body": {"tasks": [task]}, "start_time": 1, "state": "RUNNING",
            "cancel": False, "code": None, "result": None, "message": "", "end_time": 0, "minilake": None,
        }  # fmt: skip

    def calls() -> int:
        count = len(made.calls)
        made.calls.clear()
        return count

    return made.url, {"DATABRICKS_TOKEN": TOKEN}, calls


def azureml(runs: int) -> Served:
    """A stand-in with command jobs that go on."""
    from azureml_harness import CREDENTIALS
    from azureml_standin import Job, StandIn
    from azureml_tls import certificate, serving

    folder = Path(tempfile.mkdtemp())
    certificate(folder)
    made = StandIn(serving(folder))
    properties = {
        "jobType": "Command", "command": "true", "computeId": "", "experimentName": "bench",
        "environmentId": "azureml://registries/azureml/environments/sklearn-1.5/versions/1",
    }  # fmt: skip
    for number in range(runs):
        made.jobs[name(number)] = Job(name(number), properties, number)
        made.jobs[name(number)].begin()
    env = {
        **CREDENTIALS, "MSI_ENDPOINT": f"{made.url}/msi", "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"), "NO_PROXY": "127.0.0.1"
    }  # fmt: skip
    return made.url, env, lambda: counted(made.calls)


def counted(calls: Counter[str]) -> int:
    """How many; and there are none again."""
    count = calls.total()
    calls.clear()
    return count


def own(platform: str, runs: int, url: str) -> Callable[[], None]:
    """mlctl's loop, a round at a time."""
    from mlctl import backend, watch
    from mlctl.backend import Settings
    from mlctl.runs import Run, State, Status

    host = url.partition("://")[2]
    if platform == "sagemaker":
        values: dict[str, object] = {"region": REGION}
        waiting = [Run(platform, ACCOUNT, f"{REGION}/training", name(number)) for number in range(runs)]
    elif platform == "azureml":
        subscription, group, workspace = WORKSPACE
        values = {
            "subscription": subscription, "resource_group": group, "workspace": workspace, "resource_manager": url
        }  # fmt: skip
        waiting = [Run(platform, subscription, f"{group}/{workspace}", name(number)) for number in range(runs)]
    else:
        values = {"root": FOLDER, "host": url}
        waiting = [
            Run(platform, host, f"{FOLDER.lstrip('/')}/{FIRST + number}", name(number)) for number in range(runs)
        ]
    made = backend.load(platform, Settings("bench", values, Path(tempfile.mkdtemp())))
    made.status(waiting[:1])  # makes clients, reads models
    rounds = watch.rounds(made, lambda: waiting, interval=0)

    def ask() -> None:
        answer = next(rounds)
        wrong = [one for one in answer.values() if not (isinstance(one, Status) and one.state is State.RUNNING)]
        assert len(answer) == runs and not wrong, (len(answer), wrong[:1])

    return ask


def each(platform: str, runs: int, url: str) -> Callable[[], None]:
    """One question for each run."""
    if platform == "sagemaker":
        import boto3

        client = boto3.client("sagemaker", region_name=REGION)
        client.describe_training_job(TrainingJobName=name(0))  # reads what it has to know of the answer

        def ask() -> None:
            for number in range(runs):
                answer = client.describe_training_job(TrainingJobName=name(number))
                assert answer["TrainingJobStatus"] == "InProgress"

        return ask
    import requests

    session = requests.Session()
    if platform == "azureml":
        secret = {"secret": os.environ["MSI_SECRET"]}
        token = session.get(os.environ["MSI_ENDPOINT"], params={"resource": url}, headers=secret).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        subscription, group, workspace = WORKSPACE
        at = f"{url}/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices"

        def look() -> None:
            for number in range(runs):
                job = f"{at}/workspaces/{workspace}/jobs/{name(number)}"
                answer = session.get(job, params={"api-version": "2024-01-01-preview"})
                assert answer.json()["properties"]["status"] == "Running"

        return look
    session.headers["Authorization"] = f"Bearer {TOKEN}"

    def get() -> None:
        for number in range(runs):
            answer = session.get(f"{url}/api/2.2/jobs/runs/get", params={"run_id": FIRST + number})
            assert answer.json()["state"]["life_cycle_state"] == "RUNNING"

    return get


def main() -> None:
    what, platform, runs, *rest = sys.argv[1:]
    if what == "serve":
        sys.path[:0] = [str(ROOT / "tests" / "platforms" / platform), str(ROOT / "tests" / "platforms")]
        url, env, calls = {"sagemaker": sagemaker, "databricks": databricks, "azureml": azureml}[platform](int(runs))
        print(json.dumps([url, env]), flush=True)
        for _ in sys.stdin:
            print(calls(), flush=True)
        os._exit(0)
    who, url = rest
    ask = {"mlctl": own, "each": each}[who](platform, int(runs), url)
    print("ready", flush=True)
    for _ in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        ask()
        print(json.dumps({"cpu": time.process_time() - used, "wall": time.perf_counter() - began}), flush=True)


main()
