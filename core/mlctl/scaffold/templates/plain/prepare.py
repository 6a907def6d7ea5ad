"""Makes the data: points of two classes in a plane, split into those to learn from and those to test with."""

import argparse
import csv
import random
from pathlib import Path


def points(count, seed):
    """`count` rows (x, y, label); the classes, 0 and 1, lie around (0, 0) and (2, 2) and overlap a little."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = number % 2
        rows.append((round(draw.gauss(2 * label, 0.8), 3), round(draw.gauss(2 * label, 0.8), 3), label))
    draw.shuffle(rows)
    return rows


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("x", "y", "label"), *rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.csv and test.csv")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--test-share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rows = points(args.count, args.seed)
    cut = round(len(rows) * args.test_share)
    write(args.out / "test.csv", rows[:cut])
    write(args.out / "train.csv", rows[cut:])
    print(f"{len(rows) - cut} rows to learn from, {cut} to test with")


if __name__ == "__main__":
    main()
