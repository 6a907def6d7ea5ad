"""Fits a random forest to the wines and tests it on those that it hasn't seen."""

import argparse
from pathlib import Path

import joblib
import mlctl_runtime as job
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import cross_val_score


def read(path):
    """The measurements and the cultivars of a CSV file."""
    wines = pd.read_csv(path)
    return wines.drop(columns="target"), wines["target"]


def forest(trees, depth, seed):
    return RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=seed)


def scores(model, features, target):
    guessed = model.predict(features)
    return {
        "accuracy": accuracy_score(target, guessed),
        "f1": f1_score(target, guessed, average="macro"),
        "log_loss": log_loss(target, model.predict_proba(features), labels=model.classes_),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--model", type=Path, required=True, help="folder for model.joblib")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = forest(args.trees, args.depth, args.seed)
    features, target = read(args.data / "train.csv")
    for fold, score in enumerate(cross_val_score(model, features, target, cv=5)):
        job.log_metric("fold_accuracy", score, step=fold)
    model.fit(features, target)
    job.log_metrics(scores(model, *read(args.data / "test.csv")))
    joblib.dump(model, args.model / "model.joblib")


if __name__ == "__main__":
    main()
