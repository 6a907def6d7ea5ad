import subprocess
import sys

from prepare import points
from train import accuracy, fit


def test_it_learns():
    rows = points(count=200, seed=1)
    *_, (model, loss) = fit(rows, epochs=10, rate=0.05, seed=0)
    assert loss < 0.3
    assert accuracy(model, points(count=200, seed=2)) > 0.9


def test_the_same_seed_gives_the_same_model():
    rows = points(count=50, seed=1)
    assert list(fit(rows, epochs=2, rate=0.1, seed=3)) == list(fit(rows, epochs=2, rate=0.1, seed=3))


def test_the_scripts_work_together(tmp_path):
    def run(script, *words):
        subprocess.run([sys.executable, script, *map(str, words)], check=True)

    run("prepare.py", "--out", tmp_path)
    run("train.py", "--data", tmp_path, "--model", tmp_path)
    run("predict.py", "--model", tmp_path, "--rows", tmp_path / "test.csv", "--out", tmp_path)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "x,y,label,probability,prediction"
    assert len(lines) == 101
