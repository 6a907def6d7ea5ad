"""The three jobs as a Kubeflow pipeline: data, a model, predictions.

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
def digits() -> dsl.Model:
    """The project is in the launcher's image: FROM mlctl-kfp, COPY . /project."""
    data = process(job="jobs/process.yaml", **THIS).outputs["dataset"]
    model = train(job="jobs/train.yaml", input_dataset=data, **THIS).set_retry(2).outputs["model"]
    predict(job="jobs/batch-inference.yaml", input_dataset=data, input_model=model, **THIS)
    return model


if __name__ == "__main__":
    compiler.Compiler().compile(digits, sys.argv[1] if len(sys.argv) > 1 else "digits.yaml")
