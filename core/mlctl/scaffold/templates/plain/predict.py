"""Applies the model to rows, and writes each with its prediction."""

import argparse
import csv
import json
from pathlib import Path

import mlctl_runtime as job
from train import probability


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json")
    parser.add_argument("--rows", type=Path, required=True, help="CSV file with the columns x and y")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions.csv")
    args = parser.parse_args()

    model = json.loads((args.model / "model.json").read_text())
    with args.rows.open(newline="") as source, (args.out / "predictions.csv").open("w", newline="") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, [*rows.fieldnames, "probability", "prediction"], lineterminator="\n")
        writer.writeheader()
        count = 0
        for row in rows:
            chance = probability(model, float(row["x"]), float(row["y"]))
            writer.writerow({**row, "probability": f"{chance:.4f}", "prediction": int(chance > 0.5)})
            count += 1
    job.log_metric("rows", count)


if __name__ == "__main__":
    main()
