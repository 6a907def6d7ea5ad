"""Fits a logistic regression by gradient descent and tests it on points that it hasn't seen."""

import argparse
import csv
import json
import math
import random
from pathlib import Path

import mlctl_runtime as job


def read(path):
    """Rows of (x, y, label) from a CSV file with a header."""
    with path.open(newline="") as file:
        return [(float(row["x"]), float(row["y"]), int(row["label"])) for row in csv.DictReader(file)]


def probability(model, x, y):
    """That the point is of class 1."""
    return 1 / (1 + math.exp(-(model["bias"] + model["x"] * x + model["y"] * y)))


def fit(rows, epochs, rate, seed):
    """Yields the model after each epoch, with its mean loss on the way."""
    model = {"bias": 0.0, "x": 0.0, "y": 0.0}
    rows = list(rows)
    draw = random.Random(seed)
    for _ in range(epochs):
        draw.shuffle(rows)
        loss = 0.0
        for x, y, label in rows:
            guess = probability(model, x, y)
            loss -= math.log(max(guess if label else 1 - guess, 1e-12))
            step = rate * (label - guess)
            model = {"bias": model["bias"] + step, "x": model["x"] + step * x, "y": model["y"] + step * y}
        yield model, loss / len(rows)


def accuracy(model, rows):
    return sum((probability(model, x, y) > 0.5) == bool(label) for x, y, label in rows) / len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--model", type=Path, required=True, help="folder for model.json")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    for epoch, (model, loss) in enumerate(fit(read(args.data / "train.csv"), args.epochs, args.rate, args.seed)):
        job.log_metric("loss", loss, step=epoch)
    job.log_metric("accuracy", accuracy(model, read(args.data / "test.csv")))
    (args.model / "model.json").write_text(json.dumps(model))


if __name__ == "__main__":
    main()
