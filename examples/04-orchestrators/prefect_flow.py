"""The three jobs as a Prefect flow: split the digits, train on them with several learning rates, apply the best model.

pip install "./mlctl[prefect]"
python prefect_flow.py                 # once, on a temporary server of its own
python prefect_flow.py serve           # as a deployment of the server at PREFECT_API_URL: run and cancel it there
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, unmapped

from mlctl_prefect import mlctl_batch_inference, mlctl_process, mlctl_train, stop_jobs

JOBS = Path(__file__).parent / "jobs"

prepare = mlctl_process(JOBS / "process.yaml", name="prepare")
train = mlctl_train(JOBS / "train.yaml", retries=2, retry_delay_seconds=30)
predict = mlctl_batch_inference(JOBS / "batch-inference.yaml", name="predict")


@flow(on_cancellation=[stop_jobs])
def digits(alphas: tuple[float, ...] = (0.0001, 0.001), epochs: int = 10) -> float:
    """The accuracy of the best model on the test part."""
    data = prepare().outputs["data"]
    models = train.map([{"alpha": alpha, "epochs": epochs} for alpha in alphas], unmapped({"data": data})).result()
    best = max(models, key=lambda model: model.metrics["accuracy"])
    return float(predict(inputs={"data": data, "model": best.outputs["model"]}).metrics["accuracy"])


if __name__ == "__main__":
    if "serve" in sys.argv:
        digits.serve("digits")
    else:
        print(digits())
