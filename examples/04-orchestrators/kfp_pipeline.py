"""Process, train and batch inference as a Kubeflow pipeline: the three job files of 01-local, unchanged.

python kfp_pipeline.py digits.yaml      # compiles it; needs kfp, and not mlctl
"""

import sys
from pathlib import Path

from kfp import compiler, components, dsl

COMPONENTS = Path(__file__).resolve().parents[2] / "integrations/kfp/components"  # or load_component_from_url
process, train, predict = (
    components.load_component_from_file(str(COMPONENTS / f"{kind}.yaml"))
    for kind in ("process", "train", "batch-inference")
)
THIS = {  # which task of which run: a retry of it finds its job, and KFP's cache can't answer in the job's place
    "pipeline_job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    "pipeline_task_name": dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
}


@dsl.pipeline(name="digits")
def digits(epochs: int = 10, profile: str = "dev") -> dsl.Dataset:
    """The project is in the launcher's image: FROM mlctl-kfp, COPY . /project."""
    data = process(job="jobs/process.yaml", profile=profile, **THIS)
    model = train(
        job="jobs/train.yaml",
        profile=profile,
        params={"epochs": epochs},
        input_dataset=data.outputs["dataset"],
        **THIS,
    ).set_retry(2)
    predictions = predict(
        job="jobs/batch-inference.yaml",
        profile=profile,
        input_dataset=data.outputs["dataset"],
        input_model=model.outputs["model"],
        **THIS,
    )
    return predictions.outputs["dataset"]


if __name__ == "__main__":
    compiler.Compiler().compile(digits, sys.argv[1] if len(sys.argv) > 1 else "digits.yaml")
