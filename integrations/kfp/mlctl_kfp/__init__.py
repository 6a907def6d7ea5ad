"""mlctl in Kubeflow Pipelines: a component for each kind of job, and `component`, a job as a native container step.

    train = mlctl_kfp.step("train", job="jobs/train.yaml", params={"lr": 0.1})      # in a pipeline
    train.outputs["model"]

`step` is a convenience: the YAML files in components/ are loaded by KFP alone, without mlctl.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .native import component

__all__ = ["component", "step"]


def step(kind: str, *, image: str = "", **arguments: Any) -> Any:
    """A task of the component of `kind`, inside a pipeline: told which run of which task it is, and never cached.

    `image` is the launcher's. Raises InvalidJob for a kind that there isn't, and what KFP says of `arguments`.
    """
    from kfp import components, dsl

    from . import spec

    load = components.load_component_from_text(spec.text(kind, image))
    arguments.setdefault("pipeline_job_id", dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    arguments.setdefault("pipeline_task_name", dsl.PIPELINE_TASK_NAME_PLACEHOLDER)
    return load(**arguments).set_caching_options(False)


def __getattr__(name: str) -> Any:
    if name == "component":
        from .native import component

        return component
    raise AttributeError(f"module 'mlctl_kfp' has no attribute '{name}'")
