"""The launcher's component of a kind, a row of KINDS, written as plain data: kfp itself is not needed to make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlctl.backends.kfp.ir import Artifact, Parameter, document
from mlctl.errors import InvalidJob, did_you_mean
from mlctl.job import KINDS, Kind

__all__ = ["IMAGE", "dump", "text"]

IMAGE = "mlctl-kfp:latest"
"""The launcher's image, unless `mlctl kfp components --image` names another."""

_TOLD = (
    "dsl.PIPELINE_{}_PLACEHOLDER, always. A retry keeps it, so the step finds its run; a new run of the pipeline changes \
it, so KFP's cache never answers in the job's place."
)


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


def dump(spec: Mapping[str, Any]) -> str:
    """As YAML, in an order that doesn't change from one run to the next."""
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes no `&id001`: what stands twice is written twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(spec, Dumper=Plain, sort_keys=True, width=120, allow_unicode=True)
