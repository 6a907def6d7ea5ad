"""The three jobs as a Prefect flow: data, a model, predictions.

python prefect_flow.py                 # once, on a temporary server of its own
python prefect_flow.py serve           # as a deployment of the server at PREFECT_API_URL: run and cancel it there
"""

import sys
from pathlib import Path

from prefect import flow

from mlctl_prefect import mlctl_batch_inference, mlctl_process, mlctl_train, stop_jobs

JOBS = Path(__file__).parent / "jobs"

prepare = mlctl_process(JOBS / "process.yaml")
train = mlctl_train(JOBS / "train.yaml", retries=2)
predict = mlctl_batch_inference(JOBS / "batch-inference.yaml")


@flow(on_cancellation=[stop_jobs])
def digits() -> float:
    """The accuracy of the model on the test part."""
    data = prepare().outputs["data"]
    model = train(inputs={"data": data})
    predict(inputs={"data": data, "model": model.outputs["model"]})
    return model.metrics["accuracy"]


if __name__ == "__main__":
    if "serve" in sys.argv:
        digits.serve("digits")
    else:
        print(digits())
