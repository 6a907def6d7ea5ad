"""KFP's pipeline specification of one component, written as plain data: kfp itself is not needed to make it.

A platform's run and an orchestrator's component are both one task of one container; this is what they have in common. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SCHEMAS", "Artifact", "Parameter", "document"]

SCHEMAS: Mapping[str, str] = {
    "artifact": "system.Artifact",
    "dataset": "system.Dataset",
    "model": "system.Model",
    "metrics": "system.Metrics",
}
"""KFP's type of each type that an input or output of a job may have."""


@dataclass(frozen=True)
class Parameter:
    """An input or output by value. `type` is KFP's; a `default` makes an input optional."""

    name: str
    type: str
    description: str = ""
    default: Any = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a ComponentSpec."""
        spec: dict[str, Any] = {"parameterType": self.type}
        if self.description:
            spec["description"] = self.description
        if self.default is not None:
            spec |= {"defaultValue": self.default, "isOptional": True}
        return spec


@dataclass(frozen=True)
class Artifact:
    """An input or output by reference; `type` is a key of SCHEMAS."""

    name: str
    type: str
    description: str = ""
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in a ComponentSpec."""
        spec: dict[str, Any] = {"artifactType": {"schemaTitle": SCHEMAS[self.type], "schemaVersion": "0.0.1"}}
        if self.description:
            spec["description"] = self.description
        if self.optional:
            spec["isOptional"] = True
        return spec


def document(
    name: str, description: str, container: Mapping[str, Any],
    inputs: Sequence[Parameter | Artifact], outputs: Sequence[Parameter | Artifact], cached: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """A component as `load_component_from_file` takes it: a pipeline of one task, whose inputs and outputs are the
    pipeline's own. Unless it is `cached`, KFP never answers with what another run left."""
    interface = _definitions("inputDefinitions", inputs) | _definitions("outputDefinitions", outputs)
    task: dict[str, Any] = {
        "cachingOptions": {"enableCache": cached},
        "componentRef": {"name": f"comp-{name}"},
        "taskInfo": {"name": name},
    }
    passed = _by_sort(inputs, lambda one: {f"componentInput{_sort(one)}": one.name})
    if passed:
        task["inputs"] = passed
    dag: dict[str, Any] = {"tasks": {name: task}}
    if outputs:
        dag["outputs"] = _by_sort(outputs, lambda one: _selected(one, name))
    return {
        "components": {f"comp-{name}": {"executorLabel": f"exec-{name}", **interface}},
        "deploymentSpec": {"executors": {f"exec-{name}": {"container": dict(container)}}},
        "pipelineInfo": {"name": name, "description": description},
        "root": {"dag": dag, **interface},
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.0",
    }


def _sort(one: Parameter | Artifact) -> str:
    return type(one).__name__


def _by_sort(group: Sequence[Parameter | Artifact], made: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in group:
        found.setdefault(f"{_sort(one).lower()}s", {})[one.name] = made(one)
    return found


def _definitions(key: str, group: Sequence[Parameter | Artifact]) -> dict[str, Any]:
    return {key: _by_sort(group, lambda one: one.to_json())} if group else {}


def _selected(one: Parameter | Artifact, task: str) -> dict[str, Any]:
    if isinstance(one, Artifact):
        return {"artifactSelectors": [{"outputArtifactKey": one.name, "producerSubtask": task}]}
    return {"valueFromParameter": {"outputParameterKey": one.name, "producerSubtask": task}}
