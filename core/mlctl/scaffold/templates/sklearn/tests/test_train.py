from predict import predict
from prepare import split
from train import forest, scores


def test_it_learns_and_predicts():
    train, test = split(test_share=0.25, seed=1)
    model = forest(trees=50, depth=5, seed=0).fit(train.drop(columns="target"), train["target"])
    assert scores(model, test.drop(columns="target"), test["target"])["accuracy"] > 0.9
    predicted = predict(model, test)
    assert len(predicted) == len(test)
    assert predicted["probability"].between(1 / 3, 1).all()


def test_the_same_seed_gives_the_same_split():
    assert split(test_share=0.5, seed=7)[0].equals(split(test_share=0.5, seed=7)[0])
