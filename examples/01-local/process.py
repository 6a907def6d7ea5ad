"""Splits scikit-learn's handwritten digits into train.csv and test.csv: a line an image, its 64 pixels and then its digit."""

from __future__ import annotations

import argparse
from pathlib import Path

import mlctl_runtime as job
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--test-size", type=float, default=0.25)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder to write to")
    args = parser.parse_args()

    digits = load_digits()
    rows = np.column_stack([digits.data, digits.target])
    train, test = train_test_split(rows, test_size=args.test_size, random_state=args.seed, stratify=digits.target)
    args.data.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("test", test)):
        np.savetxt(args.data / f"{name}.csv", part, fmt="%d", delimiter=",")
        job.log_metric(f"{name}_rows", len(part))


if __name__ == "__main__":
    main()
