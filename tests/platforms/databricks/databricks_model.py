"""What Databricks refuses: a request checked by the SDK's own classes, and by the limits that they don't have."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from databricks.sdk.service import jobs

NODES = "i3.xlarge", "i3.2xlarge"
CLUSTER = "0923-164208-meows279"


class Refused(Exception):
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.body = status, {"error_code": code, "message": text}


def checked(body: Mapping[str, Any]) -> None:
    """Refuses what the SDK's own classes don't have, what is of another type, what is missing, and what is too long."""
    kinds = typing.get_type_hints(jobs.JobsAPI.submit)
    for name, value in body.items():
        if name not in kinds:
            raise _wrong(name, value, f"one of {', '.join(sorted(kinds))}")
        _check(kinds[name], value, name)
    for name in ("run_name", "idempotency_token", "tasks"):
        if not body.get(name):
            raise _wrong(name, body.get(name), "a value")
    if len(body["idempotency_token"]) > 64:
        raise _wrong("idempotency_token", body["idempotency_token"], "64 characters at most")
    environments = {each["environment_key"]: each.get("spec") or {} for each in body.get("environments") or []}
    for name, spec in environments.items():
        if spec.get("environment_version") not in ("1", "2", "3", "4", "5"):
            raise _wrong(f"environments.{name}", spec, "an environment_version that there is")
    for task in body["tasks"]:
        if not re.fullmatch(r"[\w-]{1,100}", task["task_key"]):
            raise _wrong("task_key", task["task_key"], "up to 100 letters, digits, - and _")
        if len(task.get("description", "")) > 1000:
            raise _wrong("description", task["description"], "1000 characters at most")
        python = task.get("spark_python_task") or {}
        if not re.match(r"/(Volumes|Workspace)/", str(python.get("python_file"))):
            raise _wrong("python_file", python.get("python_file"), "a path of the workspace or of a Volume")
        if len(json.dumps(python.get("parameters"))) > 10_000:
            raise _wrong("parameters", python["parameters"], "10,000 bytes at most")
        if sum(bool(task.get(name)) for name in ("environment_key", "existing_cluster_id", "new_cluster")) != 1:
            raise _wrong("tasks", task, "one of environment_key, existing_cluster_id, new_cluster")
        if task.get("environment_key", "") not in {*environments, ""}:
            raise _wrong("environment_key", task["environment_key"], "the key of an environment")
        if "environments" in body and "environment_key" not in task:
            raise _wrong("environments", environments, "a task that uses them")
        node = task.get("new_cluster", {}).get("node_type_id", "i3.xlarge")
        if node not in NODES:
            raise Refused(
                400, "INVALID_PARAMETER_VALUE", f"Node type {node} is not supported. Supported node types: {NODES}"
            )
        if task.get("existing_cluster_id", CLUSTER) != CLUSTER:
            raise Refused(400, "INVALID_PARAMETER_VALUE", f"Cluster {task['existing_cluster_id']} does not exist")
        if "new_cluster" in task and not task["new_cluster"].get("spark_version"):
            raise _wrong("new_cluster", task["new_cluster"], "a spark_version")


def _wrong(where: str, got: Any, expected: str) -> Refused:
    return Refused(400, "INVALID_PARAMETER_VALUE", f"{where}: got {json.dumps(got)[:100]}, expected {expected}")


def _check(kind: Any, value: Any, where: str) -> None:
    """Refuses a value that is not as the SDK's annotation says, all the way down."""
    origin, inside = typing.get_origin(kind), [each for each in typing.get_args(kind) if each is not type(None)]
    if origin is typing.Union:
        _check(inside[0], value, where)
    elif origin is list:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        for each in value:
            _check(inside[0], each, where)
    elif origin is dict or dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _wrong(where, value, "a mapping")
        fields = dict.fromkeys(value, inside[1]) if origin is dict else typing.get_type_hints(kind)
        for name, each in value.items():
            if name not in fields:
                raise _wrong(f"{where}.{name}", each, f"one of {', '.join(sorted(fields))}")
            _check(fields[name], each, f"{where}.{name}")
        for field in () if origin is dict else dataclasses.fields(kind):
            if field.default is dataclasses.MISSING and field.name not in value:
                raise _wrong(f"{where}.{field.name}", None, "a value")
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        if value not in [each.value for each in kind]:
            raise _wrong(where, value, f"one of {[each.value for each in kind]}")
    elif kind is not Any and type(value) is not kind:
        raise _wrong(where, value, f"a {kind.__name__}")
