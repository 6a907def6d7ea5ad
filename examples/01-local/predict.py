"""Applies a model to test.csv; writes predictions.csv, a line an image: the digit it is, the digit that the model sees."""

from __future__ import annotations

import argparse
from pathlib import Path

import joblib
import mlctl_runtime as job
import numpy as np
from train import read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("model"), help="the folder with model.joblib")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with test.csv")
    parser.add_argument("--predictions", type=Path, default=Path("predictions"), help="the folder to write to")
    args = parser.parse_args()

    pixels, digits = read(args.data / "test.csv")
    seen = joblib.load(args.model / "model.joblib").predict(pixels)
    args.predictions.mkdir(parents=True, exist_ok=True)
    np.savetxt(args.predictions / "predictions.csv", np.column_stack([digits, seen]), fmt="%d", delimiter=",")
    job.log_metric("predicted_rows", len(seen))
    job.log_metric("accuracy", float(np.mean(seen == digits)))


if __name__ == "__main__":
    main()
