"""What mlctl costs inside the orchestrators, beside their own tasks: parsing DAGs, thousands of deferred runs, one task.

    python bench/orchestrators.py [--quick] [--only parse|triggers|latency]...

Run by the interpreter that has mlctl, after tools/env.sh has made the orchestrators' environments: see `make
bench-orchestrators`. Subjects take turns. Nothing is asserted. The figures go to the console, and a part that was measured
in full to its place in bench/orchestrators.json. bench/README.md says how to read them. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from measure import ROOT, Sample, Table, about, installed, keep, report, scratch, show, summary, take_turns

RESULTS = ROOT / "bench" / "orchestrators.json"
DRIVERS = ROOT / "bench" / "drivers"
ENVS = ROOT / ".envs"


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    parse_rounds: int = 9
    tasks: int = 500
    deferred: tuple[int, ...] = (1_000, 10_000)
    ends: int = 200
    waiting_s: int = 30
    task_rounds: int = 7


QUICK = Settings(2, 50, (100,), 20, 5, 1)


def run(env: str, words: list[str], folder: Path, **variables: str) -> str:
    """What a program of an environment prints, run in `folder` with none of the caller's settings in its environment."""
    clean = {"PATH": f"{ENVS / env / 'bin'}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
    clean |= {"HOME": str(folder), "TMPDIR": str(folder), "MLCTL_HOME": str(folder / "mlctl"), **variables}
    argv = [str(ENVS / env / "bin" / "python"), *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, cwd=folder, env=clean, text=True, start_new_session=True, **pipes) as process:
        try:
            said = process.communicate(timeout=3600)[0]
        except BaseException:  # it ends what it started, and so does Ctrl-C here
            process.terminate()
            process.communicate(timeout=60)
            raise
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(argv)[:200]} ended with {process.returncode}:\n{said[-3000:]}")
    return said


# --- parsing

DAG = """\
from airflow.sdk import DAG
from {module} import {name} as Operator

with DAG("bench", schedule=None):
    for number in range({tasks}):
        Operator(task_id=f"task_{{number}}", {arguments})
"""
TRAINING = """config={
            "TrainingJobName": f"churn-{number}",
            "AlgorithmSpecification": {"TrainingImage": "123456789012.dkr.ecr/churn:1", "TrainingInputMode": "File"},
            "RoleArn": "arn:aws:iam::123456789012:role/ml-train",
            "HyperParameters": {"lr": str(number / 1000)},
            "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": {
                "S3DataType": "S3Prefix", "S3Uri": "s3://bucket/churn/train.csv"}}}],
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/churn/models"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 7200},
        }"""
OPERATORS = {
    "BashOperator": (
        "airflow.providers.standard.operators.bash",
        'bash_command=f"python train.py --lr {number / 1000}"',
    ),
    "MlctlTrainOperator": (
        "mlctl_airflow.operators",
        'job="jobs/train.yaml", parameters={"lr": number / 1000}, inputs={"train": "s3://bucket/churn/train.csv"}',
    ),
    "SageMakerTrainingOperator": ("airflow.providers.amazon.aws.operators.sagemaker", TRAINING),
}


def parse(settings: Settings) -> dict[str, Table]:
    """A file of DAGs with many tasks, as Airflow's DAG processor parses it; and the import of each operator's module."""

    def measure(name: str, module: str, arguments: str) -> Iterator[Sample]:
        file = folder / name / "dag.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(DAG.format(module=module, name=name, tasks=settings.tasks, arguments=arguments))
        for words in ([str(file), str(settings.tasks)], [str(file), "0", module]):
            said = run(
                "bench-airflow", [str(DRIVERS / "parse.py"), *words], folder, AIRFLOW_HOME=str(folder / "airflow")
            )
            yield json.loads(said.splitlines()[-1])

    with scratch() as folder:
        subjects = {name: partial(measure, name, *given) for name, given in OPERATORS.items()}
        return {f"parse: {settings.tasks} tasks": take_turns(settings.parse_rounds, subjects)}


# --- waiting

WAITED = {"mlctl's RunTrigger": "Run", "FileTrigger": "File", "DateTimeTrigger": "Time"}


def triggers(settings: Settings) -> dict[str, Table]:
    """One triggerer and many deferred tasks: what waiting costs, and how soon an end is told. See drivers/triggers.py.

    DateTimeTrigger does nothing but sleep: it shows what is Airflow's own. Nothing ends there, and only the most are run.
    """
    driver = str(DRIVERS / "triggers.py")

    def measure(place: Path, *words: object) -> Iterator[Sample]:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            said = run("airflow", [driver, *map(str, words)], Path(folder))
        yield json.loads(said.splitlines()[-1])

    tables = {}
    for count in settings.deferred:
        with scratch() as place:
            run("airflow", [driver, "prepare"], place)
            subjects = {
                name: partial(
                    measure, place, subject, count, settings.ends if subject != "Time" else 0, settings.waiting_s
                )
                for name, subject in WAITED.items()
                if subject != "Time" or count == settings.deferred[-1]
            }
            tables[f"triggers: {count:,} deferred"] = take_turns(1, subjects, warm_up=0)
    return tables


# --- one task


def latency(settings: Settings) -> dict[str, Table]:
    """One task at a time, in each orchestrator, with the harness of its tests: tests/NAME/bench_latency.py."""
    tables = {}
    for name in ("airflow", "kfp", "prefect", "jenkins"):
        with scratch() as folder:
            notes = folder / "latency"
            words = [
                "-m",
                "pytest",
                "--rootdir",
                str(ROOT),
                "-c",
                str(ROOT / "pyproject.toml"),
                "--basetemp",
                str(folder / "tests"),
            ]
            words += [str(ROOT / "tests" / name / "bench_latency.py")]
            run(name, words, folder, LATENCY=str(notes), ROUNDS=str(settings.task_rounds))
            values: dict[str, dict[str, list[float]]] = {}
            for line in notes.read_text().splitlines() if notes.exists() else ():
                sample = json.loads(line)
                figures = values.setdefault(sample.pop("subject"), {})
                for figure, value in sample.items():
                    figures.setdefault(figure, []).append(value)
        if not values:
            print(f"latency: {name} is left out: what its tests need isn't here, make test-{name} says what\n")
            continue
        table = {subject: {figure: summary(v) for figure, v in figures.items()} for subject, figures in values.items()}
        tables[f"latency: {name}"] = table
    return tables


AIRFLOW = ("apache-airflow-core", "apache-airflow-providers-standard", "apache-airflow-task-sdk")
PARTS: Mapping[str, tuple[Mapping[str, tuple[str, ...]], Callable[[Settings], dict[str, Table]]]] = {
    "parse": ({"bench-airflow": (*AIRFLOW, "apache-airflow-providers-amazon")}, parse),
    "triggers": ({"airflow": AIRFLOW}, triggers),
    "latency": ({"airflow": AIRFLOW, "kfp": ("kfp",), "prefect": ("prefect",)}, latency),
}
"""Part -> environment -> the packages whose versions are told; and what measures."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure mlctl inside the orchestrators. Nothing is asserted.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("bench: memory is read from /proc, which isn't here: run it on Linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: asked to stop"))  # so that what was started is ended
    for part in options.only or PARTS:
        packages, measure = PARTS[part]
        versions = {"mlctl": version("mlctl")}
        for env, names in packages.items():
            versions |= installed(ENVS / env, *names)
        results = about(versions)
        print(json.dumps(results), "\nmedian, times the first row's [min, max]\n", flush=True)
        tables = measure(QUICK if options.quick else Settings())
        for title, table in tables.items():
            show(title, table)
        if not options.quick:
            whole = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            keep(RESULTS, {**whole, part: report(results, tables)})


if __name__ == "__main__":
    main()
