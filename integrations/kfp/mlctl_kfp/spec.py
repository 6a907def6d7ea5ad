"""KFP's pipeline specification of one component, written as plain data: kfp itself is not needed to make it.

`text` is the launcher's component of a kind, a row of KINDS; `document` is what every component looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlctl.errors import InvalidJob, did_you_mean
from mlctl.job import KINDS, Kind

__all__ = ["IMAGE", "SCHEMAS", "Artifact", "Parameter", "document", "dump", "text"]

IMAGE = "mlctl-kfp:latest"
"""The launcher's image, unless `mlctl kfp components --image` names another."""

SCHEMAS: Mapping[str, str] = {
    "artifact": "system.Artifact",
    "dataset": "system.Dataset",
    "model": "system.Model",
    "metrics": "system.Metrics",
}
"""KFP's type of each type that an input or output of a job may have."""

_TOLD = (
    "dsl.PIPELINE_{}_PLACEHOLDER, always. A retry keeps it, so the step finds its run; a new run of the pipeline changes \
it, so KFP's cache never answers in the job's place."
)


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


_INPUTS: tuple[Parameter | Artifact, ...] = (
    Parameter("job", "STRING", "The job file's path, in the project."),
    Parameter("pipeline_job_id", "STRING", _TOLD.format("JOB_ID")),
    Parameter("pipeline_task_name", "STRING", _TOLD.format("TASK_NAME")),
    Parameter("params", "STRUCT", "Values of the job's parameters, by name.", {}),
    Parameter("inputs", "STRUCT", "Paths or URIs of the job's inputs, by name.", {}),
    Parameter("input_dataset_as", "STRING", "The input that input_dataset feeds, where more than one could.", ""),
    Parameter("input_model_as", "STRING", "The input that input_model feeds, where more than one could.", ""),
    Parameter("output", "STRING", "The output that becomes the artifact, where more than one could.", ""),
    Parameter("key", "STRING", "In a loop: what tells one iteration from another.", ""),
    Parameter("target", "STRING", "Where to run; empty: the profile's routes decide.", ""),
    Parameter("profile", "STRING", "The routes to use; empty: the configuration's.", ""),
    Parameter("config", "STRING", "The configuration's path, in the project; empty: the nearest mlctl.yaml.", ""),
    Artifact("input_dataset", "dataset", "A dataset of an earlier step.", True),
    Artifact("input_model", "model", "A model of an earlier step.", True),
    Artifact("project", "artifact", "A folder or .tar.gz: job, code, configuration; else the image's folder.", True),
)


def text(kind: str, image: str = "") -> str:
    """The launcher's component of `kind`, as YAML. Raises InvalidJob for a kind that there isn't."""
    if kind not in KINDS:
        raise InvalidJob(f"kind: got '{kind}', expected {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    row = KINDS[kind]
    container = {"image": image or IMAGE, "command": ["mlctl", "kfp", "step"], "args": ["--kind", kind, "{{$}}"]}
    spec = document(kind, f"mlctl: a job that {row.summary}", container, _INPUTS, _outputs(row))
    return f"# Written by `mlctl kfp components`, from the kinds that mlctl has. Do not edit.\n{dump(spec)}"


def _outputs(kind: Kind) -> tuple[Parameter | Artifact, ...]:
    return (
        Artifact(kind.output_type, kind.output_type, "What the job left; its metadata says where, and of which run."),
        Artifact("metrics", "metrics", "The last value of each metric."),
        Parameter("outputs", "STRUCT", "Where each output of the job is, by name."),
        Parameter("run", "STRING", "The run's URL: mlctl describe takes it."),
    )


def document(
    name: str, description: str, container: Mapping[str, Any],
    inputs: Sequence[Parameter | Artifact], outputs: Sequence[Parameter | Artifact],
) -> dict[str, Any]:  # fmt: skip
    """A component as `load_component_from_file` takes it: a pipeline of one task, whose inputs and outputs are the
    pipeline's own."""
    interface = _definitions("inputDefinitions", inputs) | _definitions("outputDefinitions", outputs)
    task: dict[str, Any] = {
        "cachingOptions": {"enableCache": True},
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


def dump(spec: Mapping[str, Any]) -> str:
    """As YAML, in an order that doesn't change from one run to the next."""
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes no `&id001`: what stands twice is written twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(spec, Dumper=Plain, sort_keys=True, width=120, allow_unicode=True)
