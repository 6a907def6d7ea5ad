"""What is right in a request, by the published API's own models: kfp-server-api's of the v2beta1 bodies, and the protobuf
messages of KFP's pipeline specification and of its part for Kubernetes. A field that they don't have is a problem."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import kfp_server_api
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
from kfp.pipeline_spec import pipeline_spec_pb2 as pipelines

_SIMPLE = {"str": str, "int": int, "bool": bool, "float": float, "datetime": str, "object": dict}


def problems(model: str, value: Any, at: str = "") -> list[str]:
    """What is wrong with the JSON `value` of that model, such as V2beta1Run."""
    if match := re.fullmatch(r"(list|dict)\((?:str, )?(\w+)\)|(list)\[(\w+)\]", model):
        many = match[1] or match[3]
        if not isinstance(value, list if many == "list" else dict):
            return [f"{at}: expected a {many}, got {value!r}"]
        inner = match[2] or match[4]
        each = enumerate(value) if many == "list" else value.items()
        return [
            one for key, item in each for one in (problems(inner, item, f"{at}[{key}]") if inner != "object" else [])
        ]
    if model in _SIMPLE:
        right = isinstance(value, _SIMPLE[model]) and not (model == "int" and isinstance(value, bool))
        return [] if right else [f"{at}: expected {model}, got {value!r}"]
    known = getattr(kfp_server_api, model)
    if allowed := getattr(known, "allowable_values", None):
        return [] if value in allowed else [f"{at}: {value!r} is none of {allowed}"]
    if not isinstance(value, dict):
        return [f"{at}: expected {model}, got {value!r}"]
    fields = {json: name for name, json in known.attribute_map.items()}
    found = [f"{at}.{name}: {model} has no such field" for name in value if name not in fields]
    for name in value.keys() & fields.keys():
        found += problems(known.openapi_types[fields[name]], value[name], f"{at}.{name}")
    return found


def run(body: Any) -> list[str]:
    """Problems of a body of CreateRun."""
    found = problems("V2beta1Run", body, "run")
    if found:
        return found
    for name in ("display_name", "pipeline_spec"):
        if not body.get(name):
            found.append(f"run.{name}: is missing")
    return found or pipeline(body["pipeline_spec"], (body.get("runtime_config") or {}).get("parameters") or {})


def pipeline(given: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """Problems of a pipeline: it alone, or with its platforms' part."""
    whole = "pipeline_spec" in given
    if whole and (unknown := given.keys() - {"pipeline_spec", "platform_spec"}):
        return [f"pipeline_spec: unknown {sorted(unknown)}"]
    spec, platform = pipelines.PipelineSpec(), pipelines.PlatformSpec()
    deployment = pipelines.PipelineDeploymentConfig()
    try:
        json_format.ParseDict(given["pipeline_spec"] if whole else given, spec)
        json_format.ParseDict(json_format.MessageToDict(spec.deployment_spec), deployment)
        json_format.ParseDict(given.get("platform_spec", {}) if whole else {}, platform)
        for name, each in platform.platforms.items():
            if name != "kubernetes":
                return [f"platform_spec: no platform {name}"]
            for label, executor in each.deployment_spec.executors.items():
                if label not in deployment.executors:
                    return [f"platform_spec: there is no executor {label}"]
                json_format.ParseDict(json_format.MessageToDict(executor), kubernetes.KubernetesExecutorConfig())
    except (json_format.ParseError, TypeError, AttributeError) as error:
        return [f"pipeline_spec: {error}"]
    return [*_joined(spec, deployment), *_parameters(spec, parameters)]


def _joined(spec: Any, deployment: Any) -> list[str]:
    """What the messages allow, and KFP's compiler to Argo does not."""
    found = []
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", spec.pipeline_info.name):
        found.append(f"pipelineInfo.name: {spec.pipeline_info.name!r}")
    if not re.fullmatch(r"2\.\d+\.\d+", spec.schema_version):
        found.append(f"schemaVersion: {spec.schema_version!r}")
    if not spec.root.dag.tasks:
        found.append("root: has no tasks")
    for name, task in spec.root.dag.tasks.items():
        component = spec.components.get(task.component_ref.name)
        if component is None:
            found.append(f"tasks.{name}: there is no component {task.component_ref.name!r}")
        elif component.executor_label not in deployment.executors:
            found.append(f"tasks.{name}: there is no executor {component.executor_label!r}")
        elif not deployment.executors[component.executor_label].container.image:
            found.append(f"tasks.{name}: its container has no image")
        if not task.task_info.name:
            found.append(f"tasks.{name}: has no name")
        for key, each in task.inputs.parameters.items():
            if each.component_input_parameter not in spec.root.input_definitions.parameters:
                found.append(f"tasks.{name}.inputs.{key}: the pipeline has no {each.component_input_parameter!r}")
            if component is not None and key not in component.input_definitions.parameters:
                found.append(f"tasks.{name}.inputs.{key}: the component has none of that name")
    return found


def _parameters(spec: Any, given: Mapping[str, Any]) -> list[str]:
    known = spec.root.input_definitions.parameters
    found = [f"runtime_config.parameters: the pipeline has no {name!r}" for name in given.keys() - set(known)]
    for name, each in known.items():
        if name not in given:
            if not each.is_optional:
                found.append(f"runtime_config.parameters: {name!r} is missing")
        elif pipelines.ParameterType.ParameterTypeEnum.Name(each.parameter_type) == "STRING" and not isinstance(
            given[name], str
        ):
            found.append(f"runtime_config.parameters.{name}: expected text, got {given[name]!r}")
    return found
