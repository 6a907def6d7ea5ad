"""Makes the data: wines by their chemistry, which scikit-learn ships, split into those to learn from and to test with."""

import argparse
from pathlib import Path

from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


def split(test_share, seed):
    """Two frames, train and test, with 13 measurements of each wine and its cultivar in the column `target`."""
    wines = load_wine(as_frame=True).frame
    return train_test_split(wines, test_size=test_share, random_state=seed, stratify=wines["target"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.csv and test.csv")
    parser.add_argument("--test-share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    train, test = split(args.test_share, args.seed)
    train.to_csv(args.out / "train.csv", index=False)
    test.to_csv(args.out / "test.csv", index=False)
    print(f"{len(train)} wines to learn from, {len(test)} to test with")


if __name__ == "__main__":
    main()
