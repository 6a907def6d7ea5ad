"""A job as Databricks gets it, without I/O: the body of `runs/submit`, and the job's own file, which the launcher
reads.

The body has no value of the job's: Databricks would expand `{{...}}` in it, and takes 10,000 bytes of parameters at
most. All of that is in the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.errors import InvalidJob, Unsupported, one_line
from mlctl.job import Job
from mlctl.runs import Stamp, Upload

__all__ = ["ENVIRONMENTS", "body", "described", "file_of", "root_of", "spec", "stamped", "uploads"]

ENVIRONMENTS = {"3.10": "1", "3.11": "2", "3.12": "4"}
"""The Python that a job asks for -> the version of the serverless environment that has it."""

DESCRIPTION = 1000
"""Characters that the description of a task may have."""

SLACK = 3600
"""Seconds beyond a job's timeout, which the launcher keeps, after which Databricks ends the run itself."""


def root_of(settings: Settings) -> str:
    """The folder below which everything is kept: of a Volume."""
    root = settings.values.get("root", "")
    if (
        not isinstance(root, str)
        or not re.fullmatch(r"(?=.{1,512}\Z)/Volumes(/[^/\s]+){3,}/?", root)
        or ".." in root.split("/")
    ):
        text = f"got {one_line(root)}, expected a folder of a Volume such as /Volumes/main/ml/mlctl/runs"
        raise settings.fail("root", text)
    return root.rstrip("/")


def file_of(spec: Mapping[str, Any]) -> tuple[bytes, str]:
    """The job's file, and its address: by its digest, so that no second submit changes what a run reads."""
    content = json.dumps(spec, sort_keys=True).encode()
    return content, f"{spec['root']}/jobs/{hashlib.sha256(content).hexdigest()}.json"


def uploads(job: Job, facts: Facts, root: str) -> tuple[Upload, ...]:
    """The launcher, the code, and the inputs that are on this machine."""
    found = [Upload(facts["launcher"]["path"], facts["launcher"]["sha256"], launcher_of(facts, root))]
    if job.package:
        found.append(Upload(str(job.package.path), job.package.sha256, _package(job, root)))
    for each in facts["inputs"].values():
        found += data.Local.of_json(each).uploads(f"{root}/data")
    return tuple(found)


def launcher_of(facts: Facts, root: str) -> str:
    return f"{root}/launcher/{facts['launcher']['sha256']}.py"


def _package(job: Job, root: str) -> str:
    return f"{root}/packages/{job.package.sha256}.tar.gz" if job.package else ""


def spec(job: Job, facts: Facts, name: str, settings: Settings) -> dict[str, Any]:
    """What the launcher reads. Raises InvalidJob, Unsupported, InvalidConfig."""
    root, (stem, _, attempt) = root_of(settings), name.rpartition("-")
    at, here = f"{root}/runs/{stem}/{attempt}", f"/tmp/mlctl-{name}"  # noqa: S108 - of the driver that runs the job
    spark = _spark(job)
    ways = {"file": "upload", "volumes": "mount"}
    if spark:  # which reads them by their address
        ways |= dict.fromkeys(("s3", "gs", "abfss", "dbfs"), "mount")
    data.reached(job, ways, "a job on Databricks" + ("" if spark else " without Spark"))
    inputs, copied = {}, []
    for key, each in job.inputs.items():
        local = facts["inputs"].get(key)
        where = unquote(data.Local.of_json(local).address(f"{root}/data")) if local else each.uri
        inputs[key] = where
        if each.mode == "download":
            if "://" in where:
                raise Unsupported(str(job.fail(("inputs", key), f"{where}: Spark reads it where it is; remove mode")))
            inputs[key] = f"{here}/inputs/{key}/{PurePosixPath(where).name}"
            copied.append({"from": where, "to": inputs[key]})
    addresses, outputs = {}, {}
    for key, output in job.outputs.items():
        if output.uri and data.scheme(output.uri) != "volumes":
            text = f"{output.uri}: Databricks writes to Volumes only, such as {root}/models"
            raise Unsupported(str(job.fail(("outputs", key), text)))
        addresses[key] = data.output(job, key, name, f"{at}/outputs")
        outputs[key] = addresses[key] if output.mode == "mount" else f"{here}/outputs/{key}"
    places = contract.Places(
        inputs, outputs, f"{here}/params.json", f"{here}/metrics.jsonl", f"{root}/runs/{stem}/checkpoints"
    )
    argv = contract.argv(job, places)
    run = f"databricks://{quote(facts['account'], safe='')}/{quote(root.lstrip('/'))}/{{run_id}}/{name}"
    env = contract.environment(job, places, run)
    for word in (*argv, *env.values()):
        if "\0" in word:
            raise job.fail(("command",), "a null byte can't be passed to a process")
    if spark and (
        argv[0] not in ("python", "python3") or len(argv) < 2 or (argv[1].startswith("-") and argv[1] != "-m")
    ):
        text = "with Spark the program runs where the session is: expected python FILE ... or python -m MODULE ..."
        raise job.fail(("command",), text)
    return {
        "name": name,
        "root": root,
        "at": at,
        "here": here,
        "argv": argv,
        "env": env,
        "params": job.values(),
        "code": _package(job, root),
        "python": job.python,
        "spark": spark,
        "timeout": job.timeout,
        "secrets": {each: _secret(each, settings) for each in job.secrets},
        "inputs": copied,
        "outputs": [{"from": outputs[key], "to": addresses[key]} for key in outputs if outputs[key] != addresses[key]],
        "checkpoints": places.checkpoints,
        "folders": sorted(outputs.values()),
        "addresses": addresses,
        "labels": dict(job.labels),
        "tags": list(job.tags),
    }


def _spark(job: Job) -> bool:
    own = job.platforms.get("databricks", {})
    if unknown := own.keys() - {"spark"}:
        raise job.fail(("platforms", "databricks", min(unknown)), "unknown field; expected spark")
    if not isinstance(own.get("spark", False), bool):
        raise job.fail(("platforms", "databricks", "spark"), f"got {one_line(own['spark'])}, expected true or false")
    return bool(own.get("spark", False))


def _secret(name: str, settings: Settings) -> list[str]:
    match = settings.reference(name, r"dbx-secret:([\w.@-]+)/([\w.@-]+)", "dbx-secret:SCOPE/KEY")
    return [match[1], match[2]]


def body(job: Job, facts: Facts, spec: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What `runs/submit` is asked. Raises InvalidJob for requirements that a cluster can't be given."""
    name, values = spec["name"], settings.values
    task: dict[str, Any] = {
        "task_key": "job",
        "max_retries": 0,
        "spark_python_task": {
            "python_file": launcher_of(facts, spec["root"]),
            "parameters": [file_of(spec)[1], "{{job.run_id}}"],
        },
    }
    whole: dict[str, Any] = {
        "run_name": name,
        "idempotency_token": name,
        "queue": {"enabled": True},
        "tasks": [task],
    }
    if job.timeout:
        whole["timeout_seconds"] = job.timeout + (0 if spec["spark"] else SLACK)  # there the launcher can't end it
    if "budget_policy" in values:
        whole["budget_policy_id"] = values["budget_policy"]
    if "cluster" in values or "new_cluster" in values:
        task |= (
            {"existing_cluster_id": values["cluster"]}
            if "cluster" in values
            else {"new_cluster": dict(values["new_cluster"])}
        )
        if libraries := [_library(job, line) for line in job.requirement_lines]:
            task["libraries"] = libraries
        return whole
    version = values.get("environment_version") or (ENVIRONMENTS.get(job.python) if job.python else "4")
    if version is None:
        text = f"serverless has Python {', '.join(ENVIRONMENTS)}; got {job.python}; or choose a target with a cluster"
        raise Unsupported(str(job.fail(("python",), text)))
    environment: dict[str, Any] = {"environment_version": str(version)}
    if job.requirement_lines:
        environment["dependencies"] = list(job.requirement_lines)
    task["environment_key"] = "job"
    whole["environments"] = [{"environment_key": "job", "spec": environment}]
    return whole


def _library(job: Job, line: str) -> dict[str, Any]:
    if line.startswith("-"):
        text = (
            f"{line!r}: a cluster takes packages, no options of pip's; name an index in the cluster's own configuration"
        )
        raise job.fail(("requirements",), text)
    return {"pypi": {"package": line}}


def stamped(whole: Mapping[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The body with its stamp, as the task's description. Raises InvalidJob for one that is too long."""
    text = stamp.to_json()
    if len(text) > DESCRIPTION:  # without the digests that only say what differs
        text = Stamp(stamp.key, stamp.digest, "", stamp.values, stamp.nonce).to_json()
    if len(text) > DESCRIPTION:
        raise InvalidJob(
            f"what the caller keeps with the run is {len(text)} characters with its stamp, and Databricks takes {DESCRIPTION}; "
            "keep less"
        )
    return {**whole, "tasks": [{**whole["tasks"][0], "description": text}]}


def described(run: Mapping[str, Any]) -> Stamp | None:
    """The stamp in a run's record; None where it is none of mlctl's."""
    try:
        return Stamp.of_json((run.get("tasks") or [{}])[0].get("description") or "")
    except ValueError:
        return None
