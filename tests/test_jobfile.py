"""The job file: every field with what it takes and what it refuses, parameters, the digest, and whatever else may be in
a file."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mlctl
from mlctl import jobfile, schemas, units
from mlctl.errors import InvalidJob, MlctlError
from mlctl.job import KINDS, Accelerators, Distribution, Input, Job, Output, Param, Resources
from mlctl.runs import Stamp

BASE = {"kind": "train", "name": "x", "command": "run"}
HEAD = "kind: train\nname: x\ncommand: run\n"  # what follows stands on line 4


def load(given: Mapping[str, Any] | None = None, /, **fields: Any) -> Job:
    """A job of these fields, with these parameters given."""
    return jobfile.load({**BASE, **fields}, given)


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str, **given: Any) -> str:
    """The message, without the folder: `job.yaml:4: ...`."""
    with pytest.raises(InvalidJob) as caught:
        jobfile.load(written(folder, text), **given)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{folder}/")
    return message[len(str(folder)) + 1 :]


# --- fields


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("kind: process", "kind", KINDS["process"]), ("kind: batch-inference", "kind", KINDS["batch-inference"]),
        ("name: a", "name", "a"),
        ("name: 9-b", "name", "9-b"), (f"name: {'a' * 63}", "name", "a" * 63), ("description: 'x: y'", "description", "x: y"),
        ("code: .", "code", Path("HERE")), ("code: ..", "code", Path("HERE/..")), ("code: /a/b", "code", Path("/a/b")),
        ("image: repo/i:t@sha256:0", "image", "repo/i:t@sha256:0"), ('python: "3.11"', "python", "3.11"),
        ("python: '3.9'", "python", "3.9"),
        ("requirements: r.txt", "requirements", Path("HERE/r.txt")), ("requirements: [a==1, b]", "requirements", ("a==1", "b")),
        ("requirements: []", "requirements", ()), ("command: [run, 1, 0.5, a b]", "command.argv", ("run", "1", "0.5", "a b")),
        ("command: [run, '']", "command.argv", ("run", "")), ("command: {shell: a | b}", "command.script", "a | b"),
        ("params: {}", "params", {}),
        ("params: {a: 1, b: 1.5, c: no, d: [1], e: true}", "params", {
            "a": Param("integer", 1), "b": Param("number", 1.5), "c": Param("string", "no"), "d": Param("array", [1]),
            "e": Param("boolean", True)}),
        ("params: {a: {type: integer, default: 2, minimum: 1, maximum: 3, enum: [1, 2], description: d}, "
            "b: {type: integer, default: 2, minimum: 2, maximum: 2}}",
            "params",
            {"a": Param("integer", 2, 1, 3, (1, 2), "d"), "b": Param("integer", 2, 2, 2)}),
        ("params: {a: {type: number, default: 2}, b: {type: object, default: {c: 1}}, c: {type: string}}", "params",
            {"a": Param("number", 2.0), "b": Param("object", {"c": 1}), "c": Param("string")}),
        ("inputs: {a: s3://b/c, b: data/x.csv, c: {}, d: {uri: /d, type: dataset, mode: mount}}", "inputs", {
            "a": Input("s3://b/c"), "b": Input("HERE/data/x.csv"), "c": Input(), "d": Input("/d", "dataset", "mount")}),
        ("outputs: {a: {}, b: ~, c: /c, d: {uri: gs://d, type: metrics, mode: upload}}", "outputs", {
            "a": Output("model"), "b": Output("model"), "c": Output("model", "/c"),
            "d": Output("metrics", "gs://d", "upload")}),
        ("env: {A: x, b_1: 1, C: 0.5, D: true, E: '${{params.p}} $HOME'}\nparams: {p: 1}", "env",
            {"A": "x", "b_1": "1", "C": "0.5", "D": "true", "E": "${{params.p}} $HOME"}),
        ("secrets: [HF_TOKEN, b]", "secrets", ("HF_TOKEN", "b")), ("resources: {}", "resources", Resources()),
        ("resources: {cpu: 4}", "resources.cpu", 4.0), ("resources: {cpu: 500m}", "resources.cpu", 0.5),
        ("resources: {cpu: '1.5'}", "resources.cpu", 1.5),
        ("resources: {memory: 16Gi}", "resources.memory", 16 << 30), ("resources: {memory: 1.5k}", "resources.memory", 1500),
        ("resources: {memory: 1024}", "resources.memory", 1024), ("resources: {disk: 1Ti}", "resources.disk", 1 << 40),
        ("resources: {shm: 64M}", "resources.shm", 64_000_000),
        ("resources: {accelerators: A10G}", "resources.accelerators", Accelerators("A10G", 1)),
        ("resources: {accelerators: 'TPU-v4:8'}", "resources.accelerators", Accelerators("TPU-v4", 8)),
        ("resources: {accelerators: {name: H100, count: 2}}", "resources.accelerators", Accelerators("H100", 2)),
        ("resources: {spot: true, nodes: 2}", "resources", Resources(spot=True, nodes=2)),
        ("distribution: {type: torchrun}", "distribution", Distribution("torchrun", 1)),
        ("distribution: {type: mpi, processes_per_node: 4}", "distribution", Distribution("mpi", 4)),
        ("timeout: 1d2h3m4s", "timeout", 93784), ("timeout: 90", "timeout", 90), ("queue_timeout: 30m", "queue_timeout", 1800),
        ("retry: {error: 0, oom: 1, preempted: 2, no_capacity: 3, quota: 4, image: 5, timeout: 6, infra: 100}", "retry",
            {"error": 0, "oom": 1, "preempted": 2, "no_capacity": 3, "quota": 4, "image": 5, "timeout": 6, "infra": 100}),
        ("labels: {team: growth, a.b: '', c: '1'}", "labels", {"team": "growth", "a.b": "", "c": "1"}),
        ("tags: [a, b c]", "tags", ("a", "b c")),
        ("platforms: {sagemaker: {x: [1]}, local: {}}", "platforms", {"sagemaker": {"x": [1]}, "local": {}}),
    ],
)  # fmt: skip
def test_a_field_and_its_value(tmp_path: Path, text: str, field: str, value: Any) -> None:
    base = {line.split(":")[0]: line for line in HEAD.splitlines()} | {text.split(":")[0]: text}
    found: Any = jobfile.load(written(tmp_path, "\n".join(base.values())))
    for name in field.split("."):
        found = getattr(found, name)

    def here(value: Any) -> Any:
        if isinstance(value, Path):
            return Path(str(value).replace("HERE/..", str(tmp_path.parent)).replace("HERE", str(tmp_path)))
        if isinstance(value, dict):
            return {key: here(one) for key, one in value.items()}
        return replace(value, uri=value.uri.replace("HERE", str(tmp_path))) if isinstance(value, Input) else value

    assert found == here(value)


def test_every_field_was_tried() -> None:
    properties = json.loads(schemas.text("job"))["properties"]
    for test, names in (
        (test_a_field_and_its_value, set(properties)),
        (test_a_field_and_what_it_refuses, set(properties)),
    ):
        cases = next(mark for mark in test.pytestmark if mark.name == "parametrize").args[1]  # type: ignore[attr-defined]
        assert names <= {case[0].split(":")[0] for case in cases}
    assert properties["kind"]["enum"] == list(KINDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: training", "kind: got 'training', expected process, train or batch-inference; did you mean 'train'?"),
        ("kind: 1", "kind: got 1, expected process, train or batch-inference"),
        ("name: Abc", "name: got 'Abc', expected lower-case letters, digits and '-', at most 63, such as churn-train"),
        ("name: a-", "name: got 'a-', expected lower-case letters"),
        ("name: -a", "name: got '-a', expected lower-case"), ("name: ''", "name: got '', "),
        ('name: "abc\\n"', r"name: got 'abc\n', expected lower-case letters"), (f"name: {'a' * 64}", "name: got 'aaaa"),
        ("name: a_b", "name: got 'a_b'"),
        ("name: 12", "name: got 12, expected lower-case letters"), ("name: no", None),
        ("name: ~", "name: got nothing, expected lower-case letters"),
        ("description: [a]", "description: got ['a'], expected a string"),
        ("code: ''", "code: got '', expected at least 1 character"),
        ("code: {a: b}", "code: got {'a': 'b'}, expected a string"), ("image: 5", "image: got 5, expected a string"),
        ("image: i\npython: '3.11'", "python: is the image's to bring; leave out image: or this"),
        ("image: i\nrequirements: [a]", "requirements: is the image's to bring; leave out image: or this"),
        ("python: 3.11", 'python: got 3.11, expected a quoted version such as "3.11"'),
        ("python: '2.7'", "python: got '2.7', expected a quoted"),
        ("python: '3.11.2'", "python: got '3.11.2', expected"), ('python: "3.11\\n"', r"python: got '3.11\n', expected"),
        ("requirements: {a: b}", "requirements: got {'a': 'b'}, expected a requirements file, pyproject.toml"),
        ("requirements: [1]", "requirements[0]: got 1, expected a string"),
        ("requirements: ''", "requirements: got '', expected a requirements file"),
        ("command: ~", "command: got nothing, expected a string, a list of words, or {shell: script}"),
        ("command: ''", "command: got ''"),
        ("command: []", "command: got [], expected a string, a list of words"),
        ("command: a | b", "command: '|' needs a shell, and none runs; write"),
        ("command: [a, [b]]", "command[1]: got ['b'], expected a word; quote it"),
        ("command: [a, true]", "command[1]: got true, expected a word; quote it"),
        ("command: [a, ~]", "command[1]: got nothing, expected a word"),
        ("command: {shel: a}", "command.shel: unknown field; did you mean 'shell'? (and 1 more)"),
        ("command: {shell: a, args: b}", "command.args: unknown field; expected shell"),
        ("command: {shell: ''}", "command.shell: got '', expected at least 1 character"),
        ("command: a ${{params.lr}}\nparams: {rl: 1}",
            "command: ${{params.lr}} names nothing that the job declares; it declares rl"),
        ("command: a ${{params.epoch}}\nparams: {epochs: 1}",
            "command: ${{params.epoch}} names nothing that the job declares; did you mean 'epochs'?"),
        ("command: a ${{inputs.x}}", "command: ${{inputs.x}} names nothing that the job declares; it has no inputs:"),
        ("command: [a, b, '${{outputs.x}}']",
            "command[2]: ${{outputs.x}} names nothing that the job declares; it has no outputs:"),
        ("command: a ${{param.x}}", "command: bad placeholder '${{param.x}}', expected"),
        ("command: {shell: 'a ${{params.x}}'}", "command: a script has no placeholders"),
        ("params: [a]", "params: got ['a'], expected a mapping"), ("params:", "params: got nothing, expected a mapping"),
        ("params: {1a: 1}", "params.1a: got '1a', expected a name of letters, digits, '_' and '-', a letter first, at most 63"),
        ('params: {"a\\n": 1}', r"params.a\n: got 'a\n', expected a name"),
        (f"params: {{{'a' * 64}: 1}}", f"params.{'a' * 64}: got 'aaa"),
        ("params: {a: ~}", "params.a: got nothing; give a default, or {type: string} for one that must be given"),
        ("params: {a: {}}",
            "params.a: type is missing: the type of its value: string, integer, number, boolean, array or object"),
        ("params: {a: {type: int}}",
            "params.a.type: got 'int', expected string, integer, number, boolean, array or object; did you mean 'integer'?"),
        ("params: {a: {type: integer, min: 1}}", "params.a.min: unknown field; did you mean 'minimum'?"),
        ("params: {a: {type: integer, default: 1.5}}", "params.a: got 1.5, expected an integer"),
        ("params: {a: {type: integer, default: '1'}}", "params.a: got '1', expected an integer"),
        ("params: {a: {type: integer, default: true}}", "params.a: got true, expected an integer"),
        ("params: {a: {type: boolean, default: yes}}", "params.a: got 'yes', expected true or false"),
        ("params: {a: {type: boolean, default: 1}}", "params.a: got 1, expected true or false"),
        ("params: {a: {type: string, default: 1}}", "params.a: got 1, expected a string"),
        ("params: {a: {type: string, default: ~}}", "params.a: got nothing, expected a string"),
        ("params: {a: {type: array, default: {b: 1}}}", "params.a: got {'b': 1}, expected a list, in JSON: [1, 2]"),
        ("params: {a: {type: object, default: [1]}}", "params.a: got [1], expected a mapping, in JSON: {\"a\": 1}"),
        ("params: {a: {type: number, default: 0.5, minimum: 1}}", "params.a: got 0.5, expected at least 1"),
        ("params: {a: {type: number, default: 9, maximum: 8.5}}", "params.a: got 9.0, expected at most 8.5"),
        ("params: {a: {type: string, default: c, enum: [a, b]}}", "params.a: got 'c', expected a or b"),
        ("params: {a: {type: string, enum: []}}", "params.a.enum: got [], expected at least 1 item"),
        ("params: {a: {type: string, enum: [a, 1]}}", "params.a.enum[1]: got 1, expected a string"),
        ("params: {a: {type: integer, minimum: 5, enum: [7, 1]}}", "params.a.enum[1]: got 1, expected at least 5"),
        ("params: {a: {type: string, maximum: 3}}",
            "params.a.maximum: only an integer or a number has one, and this is of type string"),
        ("params: {a: {type: integer, minimum: 3, maximum: 2}}", "params.a.minimum: got 3, expected at most the maximum, 2"),
        ("params: {a: {type: integer, minimum: low}}", "params.a.minimum: got 'low', expected a number"),
        ("inputs: {a: ~}", "inputs.a: got nothing, expected a path or URI, or a mapping of uri, type and mode"),
        ("inputs: {a: ''}", "inputs.a: got ''"), ("inputs: {a: [b]}", "inputs.a: got ['b'], expected a path or URI"),
        ("inputs: {a: {url: b}}", "inputs.a.url: unknown field; did you mean 'uri'?"),
        ("inputs: {a: {uri: ''}}", "inputs.a.uri: got '', expected at least 1 character"),
        ("inputs: {a: {type: data}}",
            "inputs.a.type: got 'data', expected artifact, dataset, model or metrics; did you mean 'dataset'?"),
        ("inputs: {a: {mode: upload}}", "inputs.a.mode: got 'upload', expected download or mount"),
        ("inputs: {a b: c}", "inputs.a b: got 'a b', expected a name"),
        ("inputs: {a-b: x, a_b: y}", "inputs.a_b: and a-b would both be MLCTL_INPUT_A_B inside the job; rename one"),
        ("inputs: {train: x, TRAIN: y}", "inputs.TRAIN: and train would both be MLCTL_INPUT_TRAIN inside the job; rename one"),
        ("outputs: {m-1: {}, M_1: {}}", "outputs.M_1: and m-1 would both be MLCTL_OUTPUT_M_1 inside the job; rename one"),
        ("outputs: [a]", "outputs: got ['a'], expected a mapping"),
        ("outputs: {a: {mode: download}}", "outputs.a.mode: got 'download', expected upload or mount"),
        ("outputs: {a: 1}", "outputs.a: got 1, expected a path or URI"),
        ("outputs: {.a: {}}", "outputs..a: got '.a', expected a name"),
        ("env: {A: ~}", "env.A: got nothing, expected a string; a list or mapping belongs in params:"),
        ("env: {A: [1]}", "env.A: got [1], expected a string"),
        ("env: {A-B: c}", "env.A-B: got 'A-B', expected a variable's name"),
        ("env: {1A: c}", "env.1A: got '1A', expected a variable's name"),
        ("env: {MLCTL_RUN: c}",
            "env.MLCTL_RUN: got 'MLCTL_RUN', expected a variable's name: letters, digits and '_', not starting with MLCTL_, which"),
        ("env: {A: '${{params.x}}'}", "env.A: ${{params.x}} names nothing that the job declares; it has no params:"),
        ("env: {A: '${{secrets.x}}'}", "env.A: bad placeholder '${{secrets.x}}', expected"),
        ("env: {T: a}\nsecrets: [T]", "env.T: is a secret too; leave it out of env: or of secrets:"),
        ("secrets: {T: a}", "secrets: got {'T': 'a'}, expected a list of names, each once"),
        ("secrets: [T, T]", "secrets: got ['T', 'T'], expected a list of names"),
        ("secrets: [MLCTL_T]", "secrets[0]: got 'MLCTL_T', expected a variable's name"),
        ("secrets: [a-b]", "secrets[0]: got 'a-b', expected a variable's name"),
        ("resources: 4", "resources: got 4, expected a mapping"),
        ("resources: {gpu: 1}", "resources.gpu: unknown field; did you mean 'cpu'?"),
        ("resources: {cpu: 0}", "resources.cpu: got 0, expected cores such as 4, 0.5 or 500m"),
        ("resources: {cpu: 0m}", "resources.cpu: got '0m', expected more than"),
        ("resources: {cpu: -1}", "resources.cpu: got -1, expected cores"),
        ("resources: {cpu: two}", "resources.cpu: got 'two', expected cores"),
        (f"resources: {{cpu: '{'9' * 400}'}}", "resources.cpu: got '9999"),
        ("resources: {memory: 16GB}", "resources.memory: got '16GB', expected a quantity such as 16Gi"),
        ("resources: {memory: 1.5}", "resources.memory: got 1.5, expected a quantity such as 16Gi, or bytes"),
        ("resources: {memory: 0}", "resources.memory: got 0"),
        ("resources: {memory: 0Gi}", "resources.memory: got '0Gi', expected from one byte to 2^60"),
        ("resources: {memory: '0.1'}", "resources.memory: got '0.1'"),
        (f"resources: {{memory: {'9' * 400}Gi}}", "resources.memory: got '9999"),
        ("resources: {disk: big}", "resources.disk: got 'big', expected a quantity such as 50Gi"),
        ("resources: {shm: -1Gi}", "resources.shm: got '-1Gi', expected a quantity"), ("resources: {accelerators: two}", None),
        ("resources: {accelerators: 2}", "resources.accelerators: got 2, expected NAME or NAME:COUNT, such as A10G:1"),
        ("resources: {accelerators: 'A10G:0'}", "resources.accelerators: got 'A10G:0', expected NAME"),
        ("resources: {accelerators: {count: 1}}", "resources.accelerators: name is missing"),
        (f"resources: {{accelerators: 'A:{'9' * 5000}'}}", "resources.accelerators: got 'A:999"),
        ("resources: {accelerators: {name: a, count: 0}}", "resources.accelerators.count: got 0, expected at least 1"),
        ("resources: {spot: yes}", "resources.spot: got 'yes', expected true or false"),
        ("resources: {nodes: 0}", "resources.nodes: got 0, expected at least 1"),
        ("resources: {nodes: 2.0}", "resources.nodes: got 2.0, expected a whole number"),
        ("resources: {nodes: x}", "resources.nodes: got 'x', expected a whole number"),
        ("distribution: torchrun", "distribution: got 'torchrun', expected a mapping"),
        ("distribution: {}", "distribution: type is missing: torchrun, mpi, or env for"),
        ("distribution: {type: ray}", "distribution.type: got 'ray', expected torchrun, mpi or env"),
        ("distribution: {type: mpi, processes_per_node: 0}", "distribution.processes_per_node: got 0, expected at least 1"),
        ("timeout: 2 hours",
            "timeout: got '2 hours', expected a duration such as 2h, 1h30m, 90s, or whole seconds, at least 1"),
            ("timeout: 0", "timeout: got 0, expected"),
        ("timeout: 0s", "timeout: got 0 seconds, expected from one second to a year"),
        ("timeout: 9999d", "timeout: got 863913600 seconds, expected from one"),
        ("timeout: 1.5", "timeout: got 1.5, expected a duration"),
        ("timeout: 90.0", "timeout: got 90.0, expected a duration"), ("timeout: ''", "timeout: got ''"),
        ("timeout: 1m1h", "timeout: got '1m1h', expected a duration"), (f"timeout: {'9' * 5000}s", "timeout: "),
        ("queue_timeout: soon", "queue_timeout: got 'soon', expected a duration"),
        ("queue_timeout: 0m", "queue_timeout: got 0 seconds, expected from one"),
        ("retry: 3", "retry: got 3, expected a mapping"),
        ("retry: {preemted: 1}", "retry.preemted: unknown field; did you mean 'preempted'?"),
        ("retry: {oom: -1}", "retry.oom: got -1, expected at least 0"),
        ("retry: {oom: 101}", "retry.oom: got 101, expected at most 100"),
        ("retry: {infra: 1.0}", "retry.infra: got 1.0, expected a whole number"),
        ("labels: {a: 1}",
            "labels.a: got 1, expected a label's value: letters, digits, '-', '_' and '.', at most 63; quote a number"),
            ("labels: [a]", "labels: got ['a']"),
        ("labels: {a b: c}", "labels.a b: got 'a b', expected a label's name"),
        ("labels: {a: 'b c'}", "labels.a: got 'b c', expected a label's value"),
        ('labels: {a: "b\\n"}', r"labels.a: got 'b\n', expected a label's value"),
        ("tags: a", "tags: got 'a', expected a list"),
        ("tags: [a, a]", "tags: got ['a', 'a'], expected each once"),
        ("tags: ['']", "tags[0]: got '', expected at least 1 character"),
        (f"tags: [{'a' * 64}]", "tags[0]: got 'aaa"),
        ("platforms: {SageMaker: {}}", "platforms.SageMaker: got 'SageMaker', expected a platform's name"),
        ("platforms: {sagemaker: 1}", "platforms.sagemaker: got 1, expected a mapping"),
    ],
)  # fmt: skip
def test_a_field_and_what_it_refuses(tmp_path: Path, text: str, message: str | None) -> None:
    name = text.split(":")[0]
    lines = [line for line in HEAD.splitlines() if line.split(":")[0] != name]
    if message is None:  # looks odd, and is right
        jobfile.load(written(tmp_path, "\n".join([*lines, text])))
        return
    found = refused(tmp_path, "\n".join([*lines, text]))
    place, _, said = found.partition(": ")
    assert said.startswith(message)
    blamed = said.partition(":")[0].split(".")[0].split("[")[0]
    line = next(number for number, line in enumerate([*lines, *text.splitlines()], 1) if line.split(":")[0] == blamed)
    assert place == f"job.yaml:{line}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "\nresources:\n  cpu: 4\n  accelerators: 2 GPUs\n",
            "job.yaml:7: resources.accelerators: got '2 GPUs', expected NAME or NAME:COUNT, such as A10G:1"),
        (HEAD + "tags:\n- a\n-\n", "job.yaml:6: tags[1]: got nothing, expected a string"),
        ("name: x\ncomand: run\n", "job.yaml:2: comand: unknown field; did you mean 'command'? (and 2 more)"),
        ("name: x\ncommand: run\n", "job.yaml:1: kind is missing: what sort of job this is"),
        ("kind: train\nname: x\n",
            "job.yaml:1: command is missing: what to run: a string, split as a shell would, a list of words, or {shell: script}"),
        (HEAD + "comand: a\nmemry: b\n", "job.yaml:4: comand: unknown field; did you mean 'command'?"),
        (HEAD + "labels: {a: b\n", "job.yaml:4: not YAML: "),
        (HEAD + "zzz: 1",
            "job.yaml:4: zzz: unknown field; expected code, command, description, distribution, env, image, inputs, kind, "),
        (HEAD + "params:\n  lr: 0.1\n  bad name: 1\n",
            "job.yaml:6: params.bad name: got 'bad name', expected a name of letters"),
        (HEAD + "defaults: &d {cpu: 0}\nresources: *d\n", "job.yaml:4: defaults: unknown field; expected code"),
        (HEAD + '"a\\nb": 1\n', r"job.yaml:4: a\nb: unknown field; expected "),
    ],
)  # fmt: skip
def test_where_it_is(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("field", "where"),
    [
        *((field, "belongs in your orchestrator, which composes jobs (an Airflow DAG,") for field in (
            "schedule", "cron", "depends_on", "needs", "upstream", "downstream", "steps", "stages", "tasks",
                "notifications", "notify",
            "on_failure", "on_success", "triggers", "trigger", "dependencies")),
        *((field, "is not the job's to say: targets and profiles stand in mlctl.yaml, or --target; what only one")
          for field in ("target", "backend", "platform", "region", "role", "profile")),
    ],
)  # fmt: skip
def test_fields_that_belong_elsewhere(tmp_path: Path, field: str, where: str) -> None:
    assert refused(tmp_path, HEAD + f"{field}: x\n").startswith(f"job.yaml:4: {field}: {where}")
    assert f"{field}: unknown" in refused(tmp_path, HEAD + f"resources: {{{field}: x}}\n")


def test_the_output_of_each_kind_has_its_type() -> None:
    assert {kind: load(kind=kind, outputs={"o": {}}).outputs["o"].type for kind in KINDS} == {
        "process": "dataset", "train": "model", "batch-inference": "dataset",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("read", "value", "number"),
    [
        (units.quantity, "1", 1), (units.quantity, 2**60, 2**60), (units.quantity, "1Ti", 2**40),
        (units.quantity, "0.5k", 500), (units.quantity, "2T", 2 * 10**12),
        (units.cores, "1m", 0.001), (units.cores, 999_999, 999_999.0), (units.seconds, 1, 1),
        (units.seconds, "366d", 366 * 86400), (units.seconds, "1m1s", 61),
    ],
)  # fmt: skip
def test_units(read: Any, value: Any, number: float) -> None:
    assert read(value) == number


def test_moments_are_utc() -> None:
    for text, microsecond in (("05Z", 0), ("05", 0), ("05.12Z", 120_000), ("05.1234567Z", 123_456)):
        assert units.moment(f"2026-01-02T03:04:{text}") == datetime(2026, 1, 2, 3, 4, 5, microsecond, timezone.utc)
    assert [units.moment(value) for value in (None, "", "soon", 0)] == [None] * 4


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (units.quantity, 0), (units.quantity, 2**60 + 2**10), (units.quantity, "1KB"), (units.quantity, "1ki"),
        (units.quantity, " 1"), (units.quantity, "1\n"),
        (units.cores, 10**6), (units.cores, "nan"), (units.cores, "inf"), (units.cores, ""), (units.cores, "m"),
        (units.seconds, 366 * 86400 + 1), (units.seconds, 0),
        (units.seconds, ""), (units.seconds, "h"), (units.seconds, "1h\n"), (units.seconds, "-1h"),
    ],
)  # fmt: skip
def test_units_refused(read: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"got .*, expected"):
        read(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00s"), (9.994, "9.99s"), (10, "10s"), (59.4, "59s"), (60, "1m 0s"), (200, "3m 20s"), (3599, "59m 59s"),
    (3600, "1h 0m"), (7500, "2h 5m"), (90000, "25h 0m")],
)  # fmt: skip
def test_shown_seconds(value: float, text: str) -> None:
    assert units.shown_seconds(value) == text


# --- mappings, and jobs again


def test_a_mapping_is_a_job_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = load(code="src", inputs={"a": "x.csv"}, tags=("a",))
    assert (job.code, job.inputs["a"].uri, job.tags) == (tmp_path / "src", f"{tmp_path}/x.csv", ("a",))
    monkeypatch.chdir("/")
    assert jobfile.load(job).code == tmp_path / "src"


def test_a_loaded_job_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, HEAD + "code: .\ninputs: {a: x}\nparams: {p: 1}\n")
    monkeypatch.chdir(tmp_path)
    job = jobfile.load("job.yaml")
    monkeypatch.chdir("/")
    again = jobfile.load(job, {"p": 2})
    assert (again.code, again.inputs["a"].uri, again.values()) == (tmp_path, f"{tmp_path}/x", {"p": 2})
    assert str(again.fail(("code",), "x")) == "job.yaml:4: code: x"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "job: kind is missing"), ({**BASE, "kind": "trian"}, "job: kind: got 'trian'"),
        ({**BASE, 1: 2}, "job: got the name 1, expected a string"),
        ({**BASE, "params": {"a": math.nan}}, "job: params.a: got nan, which JSON can't carry"),
        ({**BASE, "params": {(1, 2): 3}}, "job: params: got the name (1, 2), expected a string"),
        ({**BASE, "params": {"a": math.inf}}, "job: params.a: got inf, which JSON can't carry"),
        ({**BASE, "params": {"a": {1, 2}}}, "job: params.a: got {1, 2}, which JSON can't carry"),
        ({**BASE, "params": {"a": Decimal("0.1")}}, "job: params.a: got Decimal('0.1'), which JSON can't carry"),
        ({**BASE, "params": {"a": b"x"}}, "job: params.a: got b'x', which JSON can't carry"),
        ({**BASE, "params": {"a": {"default": {"b": [1, 1j]}, "type": "object"}}}, "job: params.a.default.b[1]: got 1j,"),
        ({**BASE, "params": {"a": {"default": {"b": {1: 2}}, "type": "object"}}}, "job: params.a.default.b: got the name 1,"),
        (None, "job: got nothing, expected a mapping of fields, or the path of a file"),
        (5, "job: got 5, expected a mapping of fields, or"), (["job.yaml"], "job: got ['job.yaml'], expected"),
        (b"job.yaml", "job: got b'job.yaml', expected"),
    ],
)  # fmt: skip
def test_bad_mappings(source: Any, message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        jobfile.load(source)
    assert str(caught.value).startswith(message)


def test_a_mapping_that_holds_itself() -> None:
    loop: dict[str, Any] = {**BASE}
    loop["params"] = loop
    with pytest.raises(InvalidJob, match="job: nested too deeply"):
        jobfile.load(loop)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": [1]}, "params: got [1], expected a mapping of names to values"),
        ({"params": "p"}, "params: got 'p', expected a mapping"), ({"inputs": 5}, "inputs: got 5, expected a mapping"),
        ({"params": {1: 2}}, "params: got the name 1, expected a string"),
        ({"inputs": {None: "x"}}, "inputs: got the name nothing, expected a string"),
        ({"params": {"o": {1: 2}}}, "params.o: got the name 1, expected a string"),
        ({"params": {"o": {"a": [{1: 2}]}}}, "params.o.a[0]: got the name 1, expected a string"),
        ({"params": {"o": {"a": {1}}}}, "params.o.a: got {1}, which JSON can't carry"),
    ],
)  # fmt: skip
def test_bad_values_of_a_run(given: dict[str, Any], message: str) -> None:
    job = {**BASE, "params": {"o": {"type": "object"}}, "inputs": {"i": "x"}}
    for load in (mlctl.load, mlctl.plan, mlctl.submit, mlctl.run):
        with pytest.raises(InvalidJob) as caught:
            load(job, **given)
        assert str(caught.value).startswith(f"job: {message}")


@pytest.mark.parametrize(
    ("type_", "text"),
    [("object", '{"a": 1, "b": 2, "a": 1}'), ("object", '{"b": {"a": 1, "a": 2}}'), ("array", '[{"a": 1, "a": 2}]')],
)
def test_a_name_given_twice_in_the_text_of_a_parameter(type_: str, text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        jobfile.load({**BASE, "params": {"o": {"type": type_}}}, {"o": text})
    assert str(caught.value) == f"job: params.o: got {text!r}, in which a: given twice"


def test_plain_data_of_other_types() -> None:
    """What JSON has a word for: a path, a tuple, another sort of mapping."""
    o = MappingProxyType({"a": (1, True, None)})
    job = jobfile.load({**BASE, "code": Path("/"), "params": {"o": {"type": "object", "default": o}, "p": Path("x")}})
    assert (job.code, job.values()) == (Path("/"), {"o": {"a": [1, True, None]}, "p": "x"})


def test_defaults_fill_what_the_job_leaves_out() -> None:
    job = jobfile.load(
        {**BASE, "env": {"A": "job"}, "resources": {"cpu": 1}, "timeout": "1h"},
        defaults={"env": {"A": "d", "B": "d"}, "resources": {"cpu": 2, "memory": "1Gi"}, "timeout": "2h",
            "labels": {"team": "x"}, "retry": {"infra": 1}},
    )  # fmt: skip
    assert job.env == {"A": "job", "B": "d"}
    assert job.resources == Resources(cpu=1.0, memory=1 << 30)
    assert (job.timeout, job.labels, job.retry) == (3600, {"team": "x"}, {"infra": 1})


def test_links(tmp_path: Path) -> None:
    """An input keeps the name that it was given, for programs look at endings; folders on the way are followed."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "3f9a").write_text("x")
    (tmp_path / "data").symlink_to("store")
    (tmp_path / "store" / "train.csv").symlink_to("3f9a")
    job = jobfile.load(
        written(tmp_path, HEAD + "inputs: {a: data/train.csv, b: data/.., c: store/nothing, d: '~nobody-here/x'}\n")
    )
    assert {name: each.uri for name, each in job.inputs.items()} == {
        "a": f"{tmp_path}/store/train.csv", "b": str(tmp_path), "c": f"{tmp_path}/store/nothing", "d": "~nobody-here/x",
    }  # fmt: skip


# --- parameters


PARAMS = {
    "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
        "a": {"type": "array"},
    "o": {"type": "object"}, "low": {"type": "integer", "minimum": 1, "maximum": 9}, "one": {"type": "string",
        "enum": ["x", "y z"]},
    "num": {"type": "number", "enum": [0.5, 1]}, "short": 1, "rate": 0.1, "flag": False, "word": "w", "list": [1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("s", "", ""), ("s", "  x ", "  x "), ("s", "1", "1"), ("s", "true", "true"), ("s", "é 日本\n", "é 日本\n"),
        ("s", 1, "1"), ("s", 0.5, "0.5"),
        ("s", True, "true"), ("s", "null", "null"), ("i", "3", 3), ("i", "-3", -3), ("i", "+3", 3), ("i", "012", 12),
        ("i", "1e3", 1000), ("i", "3.0", 3), ("i", 3, 3),
        ("i", 3.0, 3), ("i", "9" * 30, int("9" * 30)), ("i", 10**30, 10**30),
        ("i", "9007199254740993", 9007199254740993), ("i", " 3 ", 3),
        ("n", "0.1", 0.1), ("n", "1", 1.0), ("n", 1, 1.0), ("n", ".5", 0.5), ("n", "1.", 1.0), ("n", "1e-3", 0.001),
        ("n", "-1E+2", -100.0), ("n", "00.5", 0.5),
        ("b", "true", True), ("b", "False", False), ("b", "TRUE", True), ("b", True, True),
        ("a", "[1, \"x\"]", [1, "x"]), ("a", "[]", []), ("a", (1, 2), [1, 2]),
        ("a", [{"x": None}], [{"x": None}]), ("o", '{"a": [1]}', {"a": [1]}), ("o", {"a": 1}, {"a": 1}),
        ("o", {"a": (1,)}, {"a": [1]}), ("low", "1", 1), ("low", 9, 9),
        ("one", "y z", "y z"), ("num", "1", 1.0), ("num", "0.5", 0.5), ("short", "7", 7), ("rate", "1", 1.0),
        ("rate", 1, 1.0), ("flag", "true", True), ("word", "1", "1"),
        ("list", "[2]", [2]),
    ],
)  # fmt: skip
def test_a_parameter_given(name: str, given: Any, value: Any) -> None:
    found = load({name: given}, params=PARAMS).params[name].value
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("i", "1.5", "got '1.5', expected an integer"), ("i", "", "got '', expected an integer"),
        ("i", "x", "got 'x', expected an integer"), ("i", "true", "got 'true', expected an integer"),
        ("i", True, "got true, expected an integer"), ("i", "1_000", "got '1_000', expected an integer"),
        ("i", "0x1f", "got '0x1f', expected"), ("i", None, "got nothing, expected"),
        ("i", "1e30", "got '1e30', expected an integer"), ("i", 1e30, "got 1e+30, expected an integer"),
        ("i", "9" * 5000, "got '999"), ("i", [1], "got [1], expected an integer"),
        ("i", "1e999", "got '1e999', expected an integer"), ("n", "nan", "got 'nan', expected a number"),
        ("n", "NaN", "got 'NaN', expected a number"),
        ("n", "Infinity", "got 'Infinity', expected a number"), ("n", "1e999", "got '1e999', expected a number"),
        ("n", math.nan, "got nan, expected a number"),
        ("n", math.inf, "got inf, expected a number"), ("n", 10**400, "got 1000"), ("n", "1" + "0" * 400, "got '1000"),
        ("n", "1,5", "got '1,5', expected a number"), ("n", "٣", "got '٣', expected"),
        ("b", "yes", "got 'yes', expected true or false"), ("b", "1", "got '1', expected true or false"),
        ("b", 1, "got 1, expected true or false"), ("b", "", "got '', expected true"),
        ("a", "1,2", "got '1,2', expected a list, in JSON: [1, 2]"),
        ("a", '{"a": 1}', "got '{\"a\": 1}', expected a list"),
        ("a", "[" * 100_000, "got '[[["), ("a", {1, 2}, "got {1, 2}, expected"),
        ("o", "[]", "got '[]', expected a mapping"), ("o", "a=1", "got 'a=1', expected a mapping, in JSON"),
        ("o", {(1, 2): 3}, "got the name (1, 2), expected a string"), ("s", None, "got nothing, expected a string"),
        ("s", [1], "got [1], expected a string"), ("s", b"x", "got b'x', expected a string"),
        ("low", "0", "got 0, expected at least 1"), ("low", 10, "got 10, expected at most 9"),
        ("one", "z", "got 'z', expected x or y z"), ("one", "", "got '', expected x or y z"),
        ("num", "2", "got 2.0, expected 0.5 or 1.0"), ("short", "x", "got 'x', expected an integer"),
        ("short", 1.5, "got 1.5, expected an integer"), ("flag", "no", "got 'no', expected true or false"),
        ("list", "x", "got 'x', expected a list"), ("word", None, "got nothing, expected"),
    ],
)  # fmt: skip
def test_a_parameter_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        load({name: given}, params=PARAMS)
    assert str(caught.value).startswith(f"job: params.{name}: {message}")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("given", "got"),
    [([math.nan], "nan"), ("[NaN]", "nan"), ("[1e999]", "inf"), ([object()], "<object object at 0x")],
)
def test_what_json_can_not_carry_in_a_parameter(given: Any, got: str) -> None:
    with pytest.raises(InvalidJob, match=rf"^job: params.a\[0\]: got {got}\w*>?, which JSON can't carry$"):
        load({"a": given}, params=PARAMS)


def test_a_deep_list_from_python() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidJob, match=r"params\.a: got a list nested too deeply, expected a list"):
        load({"a": deep}, params=PARAMS)


def test_a_value_is_the_jobs_own() -> None:
    given = {"x": [1]}
    job = load({"o": given}, params=PARAMS)
    given["x"].append(2)
    assert job.params["o"].value == {"x": [1]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": {"epoch": 1}}, "job.yaml:4: params: --param epoch: the job has no such name; did you mean 'epochs'?"),
        ({"params": {"zz": 1}}, "job.yaml:4: params: --param zz: the job has no such name; it declares epochs, lr"),
        ({"inputs": {"trian": "x"}}, "job.yaml:5: inputs: --input trian: the job has no such name; did you mean 'train'?"),
        ({"inputs": {"train": ""}}, "job.yaml:5: inputs.train: got nothing, expected a path or URI: --input train=PATH"),
        ({"inputs": {"train": None}}, "job.yaml:5: inputs.train: got nothing, expected a path or URI: --input train=PATH"),
        ({"inputs": {"train": 5}}, "job.yaml:5: inputs.train: got 5, expected a path or URI: --input train=PATH"),
        ({"params": {"lr": "x"}}, "job.yaml:4: params.lr: got 'x', expected a number"),
    ],
)  # fmt: skip
def test_names_given_that_the_job_lacks(tmp_path: Path, given: Any, message: str) -> None:
    assert (
        refused(tmp_path, HEAD + "params: {epochs: 1, lr: {type: number}}\ninputs: {train: {}}\n", **given) == message
    )


def test_a_job_without_parameters_takes_none() -> None:
    with pytest.raises(InvalidJob, match="job: params: --param a: the job has no such name; it declares no params"):
        load({"a": 1})


def test_what_must_be_given(tmp_path: Path) -> None:
    text = HEAD + "params: {a: 1, lr: {type: number}}\ninputs: {train: {type: dataset}}\n"
    job = jobfile.load(written(tmp_path, text))  # reading it is fine, running it is not
    with pytest.raises(
        InvalidJob, match=r"job.yaml:4: params.lr: has no value and no default; give one: --param lr=VALUE$"
    ):
        job.complete()
    with pytest.raises(InvalidJob, match=r"job.yaml:5: inputs.train: has no uri; give one: --input train=PATH$"):
        jobfile.load(job, {"lr": 1}).complete()
    full = jobfile.load(job, {"lr": 1}, {"train": Path("/data")})
    full.complete()
    assert full.values() == {"a": 1, "lr": 1.0}
    assert full.inputs["train"] == Input("/data", "dataset")


def test_an_input_given_counts_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, HEAD + "inputs: {a: x, b: x}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = jobfile.load(path, None, {"a": "y.csv"})
    assert (job.inputs["a"].uri, job.inputs["b"].uri) == (f"{tmp_path}/elsewhere/y.csv", f"{tmp_path}/x")


# --- requirements


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        ({"r.txt": "a==1  # why\n\n# b\n  c >= 2 ;  python_version < '4'\n"}, ("a==1", "c >= 2 ; python_version < '4'")),
        ({"r.txt": "\ufeffa\r\nb \\\n  --hash=sha256:0\n"}, ("a", "b --hash=sha256:0")),
        ({"r.txt": "-r more/m.txt\nz", "more/m.txt": "--requirement=../n.txt\ny", "n.txt": "x"}, ("x", "y", "z")),
        ({"r.txt": "-rm.txt", "m.txt": "y @ https://host/y.whl"}, ("y @ https://host/y.whl",)),
        ({"r.txt": "--extra-index-url https://host/simple\na"}, ("--extra-index-url https://host/simple", "a")),
    ],
)  # fmt: skip
def test_requirements(tmp_path: Path, files: dict[str, str], lines: tuple[str, ...]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, newline="")
    path = written(tmp_path, HEAD + "requirements: r.txt\n")
    assert jobfile.load(path).snapshot(tmp_path).requirement_lines == lines
    path = written(tmp_path, HEAD + f"requirements: {json.dumps(files['r.txt'].splitlines())}\n")
    if "\\" not in files["r.txt"] and "\ufeff" not in files["r.txt"]:
        listed = [line for line in files["r.txt"].splitlines() if line]
        path = written(tmp_path, HEAD + f"requirements: {json.dumps(listed)}\n")
        assert jobfile.load(path).snapshot(tmp_path).requirement_lines == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-e .", "'-e .' is a path of this machine; name a package, or ship it in code:"),
        ("./pkg", "'./pkg' is a path"), ("../x", "'../x' is a path"),
        ("/abs/x.whl", "'/abs/x.whl' is a path"), ("x @ file:///y", "'x @ file:///y' is a path"),
        ("-c c.txt", "'-c c.txt' is a path"), ("file:x", "'file:x' is a path"),
    ],
)  # fmt: skip
def test_requirements_of_this_machine(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.txt").write_text(f"a\n{text}\n")
    for field, start in (("r.txt", f"{tmp_path}/r.txt: "), (json.dumps([text]), "")):
        job = jobfile.load(written(tmp_path, HEAD + f"requirements: {field}\n"))
        with pytest.raises(InvalidJob) as caught:
            job.snapshot(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}/job.yaml:4: requirements: {start}{message}")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("none.txt", "HERE/none.txt: No such file or directory"), ("loop.txt", "HERE/loop.txt: includes itself"),
        (".", "HERE: is not a regular file"),
        ("/dev/zero", "/dev/zero: is not a regular file"), ("bytes.txt", "HERE/bytes.txt: 'utf-8' codec can't decode"),
        ("[-r none.txt]", "HERE/none.txt: No such file"),
    ],
)  # fmt: skip
def test_requirements_that_cannot_be_read(tmp_path: Path, field: str, message: str) -> None:
    (tmp_path / "loop.txt").write_text("-r loop.txt")
    (tmp_path / "bytes.txt").write_bytes(b"a\xff")
    job = jobfile.load(written(tmp_path, HEAD + f"requirements: {field}\n"))
    with pytest.raises(InvalidJob) as caught:
        job.snapshot(tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path}/job.yaml:4: requirements: {message.replace('HERE', str(tmp_path))}"
    )


# --- the digest

FULL = (
    HEAD
    + """description: one
code: src
requirements: r.txt
params: {lr: 0.1, n: {type: integer, default: 3}}
inputs: {a: s3://b/c}
timeout: 1h
"""
)


def tree(folder: Path, text: str = FULL, source: str = "print(1)", requirements: str = "a==1\n") -> Path:
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src" / "train.py").write_text(source)
    (folder / "r.txt").write_text(requirements)
    return written(folder, text)


def stamp(path: Path, home: Path, target: str = "local", **given: Any) -> Stamp:
    job = jobfile.load(path, **given).snapshot(home)
    return Stamp("", job.digest(target), job.parts(target))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, []), ({"text": FULL.replace("one", "two")}, []), ({"text": FULL.replace("description: one\n", "")}, []),
        ({"text": FULL.replace("timeout: 1h", "timeout: 1h # x\n")}, []),
        ({"text": "\n".join(reversed(FULL.splitlines()))}, []), ({"requirements": "# why\na==1\n\n"}, []),
        ({"text": FULL.replace("r.txt", "[a==1]")}, []),
        ({"given": {"params": {"lr": "0.1"}}}, []), ({"given": {"params": {"lr": 0.1, "n": "3"}}}, []),
        ({"given": {"params": {"lr": 0.2}}}, ["params"]),
        ({"given": {"inputs": {"a": "s3://other"}}}, ["inputs"]), ({"source": "print(2)"}, ["code"]),
        ({"requirements": "a==2"}, ["requirements"]), ({"target": "prod"}, ["target"]),
        ({"text": FULL.replace("command: run", "command: run --fast")}, ["command"]),
        ({"text": FULL.replace("1h", "2h")}, ["timeout"]),
        ({"text": FULL + "env: {A: b}"}, ["env"]),
        ({"text": FULL.replace("lr: 0.1", "lr: 0.3"), "target": "prod"}, ["params", "target"]),
    ],
)  # fmt: skip
def test_what_makes_it_another_job(tmp_path: Path, home: Path, change: dict[str, Any], differs: list[str]) -> None:
    one = stamp(tree(tmp_path / "one"), home)
    files = {name: change[name] for name in ("text", "source", "requirements") if name in change}
    other = stamp(
        tree(tmp_path / "deeper" / "other", **files), home, change.get("target", "local"), **change.get("given", {})
    )
    assert (one.differs(other), other.differs(one)) == (differs, differs)
    assert (one.digest == other.digest) == (not differs)
    assert len(one.digest) == 64


def test_an_integer_for_a_number_is_the_same_job_from_everywhere() -> None:
    assert len({load({"lr": value}, params={"lr": 0.1}).digest("t") for value in (1, 1.0, "1", "1.0", "1e0")}) == 1


def test_defaults_do_not_change_the_digest() -> None:
    job = load()
    assert jobfile.load(job, defaults={"timeout": "1h", "labels": {"a": "b"}}).digest("t") == job.digest("t")


# --- anything at all

SEED = """kind: train
name: churn-train
description: text
code: ..
python: "3.11"
requirements: [a==1]
command: python train.py --lr ${{params.lr}} --data ${{inputs.train}} --out '${{outputs.model}}'
params: {lr: 0.1, epochs: {type: integer, default: 3, minimum: 1, maximum: 100, enum: [1, 3]}}
inputs: {train: {uri: s3://b/t.csv, type: dataset, mode: mount}}
outputs: {model: {type: model}}
env: {LOG_LEVEL: info, LR: "${{params.lr}}"}
secrets: [HF_TOKEN]
resources: {cpu: 4, memory: 16Gi, accelerators: "A10G:1", disk: 50Gi, shm: 2Gi, spot: true, nodes: 1}
distribution: {type: torchrun, processes_per_node: 1}
timeout: 2h
queue_timeout: 30m
retry: {preempted: 3, infra: 1}
labels: {team: growth}
tags: [a, b]
platforms: {sagemaker: {x: 1}}
"""
BITS = ["", "\n", "  ", "~", "&a", "*a", "[", "]", "{", "}", ": ", "- ", "'", '"', "|", ">", "!!", "%", "#", "\0", "é",
    "0x", "1e999", ".inf", "${{", "}}",
        "${{params.lr}}", "\\", "---\n", "<<: *a", "null", "9" * 50, "MLCTL_", "kind: train\n", "\t", "\r", "\x85",
            "\u2028", "?", "@"]  # fmt: skip


def loads(path: Path) -> bool:
    """Whether it is a job; and if not, that it says so as it should."""
    start = time.monotonic()
    try:
        job = jobfile.load(path)
    except MlctlError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(f"{path}:")
        return False
    finally:
        assert time.monotonic() - start < 60  # what grows faster than its input would take hours
    job.digest("t")
    json.dumps(job.values() if all(one.value is not None for one in job.params.values()) else {}, allow_nan=False)
    return True


@given(st.binary(max_size=300))
@example(b"")
@settings(max_examples=100)
def test_any_bytes_are_a_job_or_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "job.yaml").write_bytes(raw)
    assert not loads(tmp_path / "job.yaml")


def test_a_mutated_job_file_is_a_job_or_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, SEED)
    assert loads(path)
    chance = random.Random(7)
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        text = SEED
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            at, width = chance.randrange(len(text)), chance.choice((0, 0, 1, 1, 2, 8, 60))
            other = chance.randrange(len(text))
            piece = text[other : other + chance.randrange(30)]
            bit = chance.choice((chance.choice(BITS), piece, text[other], chance.choice("abc 019.-")))
            text = text[:at] + bit + text[at + width :]
        path.write_bytes(text.encode())
        outcomes[loads(path)] += 1
    assert min(outcomes.values()) > 20, outcomes  # both ways were taken


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["16Gi", "2h",
        "A10G:1", "train", "${{params.a}}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from(["type", "default",
        "uri", "enum"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(json.loads(schemas.text("job"))["properties"])), _VALUES, max_size=3))
def test_any_mapping_is_a_job_or_one_line(fields: dict[str, Any]) -> None:
    try:
        job = load(**fields)
    except InvalidJob as error:
        assert len(str(error).splitlines()) == 1
    else:
        job.digest("t")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "tags: [" + ", ".join(f"{{a: {n}}}" for n in range(6000)) + "]", HEAD + "secrets: [" + "a, " * 19_000 + "]",
        HEAD + "params:\n" + "".join(f"  a{n}: {{typ: x}}\n" for n in range(6000)),
        HEAD + "".join(f"a{n}: 1\n" for n in range(15_000)),
        HEAD + "env: {A: '" + "${{params.a}}" * 70_000 + "'}", HEAD.replace("run", "'" + "x" * 900_000) + "'",
            HEAD + "labels: {a: " + "b" * 900_000 + "}",
    ],
    ids=["tags", "secrets", "params", "fields", "placeholders", "command", "label"],
)  # fmt: skip
def test_a_large_job_file_takes_no_long_time(tmp_path: Path, text: str) -> None:
    loads(written(tmp_path, text))
