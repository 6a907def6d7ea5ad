"""Applies the model to rows, and writes each with its prediction."""

import argparse
from pathlib import Path

import joblib
import mlctl_runtime as job
import pandas as pd


def predict(model, rows):
    """`rows` with two more columns: `prediction`, and `probability`, how sure the model is of it."""
    features = rows[model.feature_names_in_]
    return rows.assign(prediction=model.predict(features), probability=model.predict_proba(features).max(axis=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with model.joblib")
    parser.add_argument("--rows", type=Path, required=True, help="CSV file with the measurements")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions.csv")
    args = parser.parse_args()

    rows = predict(joblib.load(args.model / "model.joblib"), pd.read_csv(args.rows))
    rows.to_csv(args.out / "predictions.csv", index=False)
    job.log_metric("rows", len(rows))


if __name__ == "__main__":
    main()
