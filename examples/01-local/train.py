"""Fits a linear classifier to train.csv, one pass an epoch, and measures it on test.csv after each."""

from __future__ import annotations

import argparse
from pathlib import Path

import joblib
import mlctl_runtime as job
import numpy as np
from sklearn.linear_model import SGDClassifier


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, scaled to 0..1, and digits."""
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1] / 16.0, rows[:, -1].astype(int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--alpha", type=float, default=0.001)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with train.csv and test.csv")
    parser.add_argument("--model", type=Path, default=Path("model"), help="the folder to write to")
    args = parser.parse_args()

    pixels, digits = read(args.data / "train.csv")
    test_pixels, test_digits = read(args.data / "test.csv")
    model = SGDClassifier(loss="log_loss", alpha=args.alpha, random_state=args.seed)
    order = np.random.default_rng(args.seed)
    for epoch in range(args.epochs):
        shuffled = order.permutation(len(pixels))
        model.partial_fit(pixels[shuffled], digits[shuffled], classes=np.arange(10))
        job.log_metric("accuracy", model.score(test_pixels, test_digits), step=epoch)
        if job.stopping():
            raise SystemExit(143)
    args.model.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, args.model / "model.joblib")


if __name__ == "__main__":
    main()
