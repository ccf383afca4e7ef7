import pytest

from rarecli.core.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "names", "near"),
    [
        ("epoch", ["epochs", "fold"], "epochs"),
        ("learning_rate", ["leaving_rate", "lr"], "lr"),
        ("bs", ["obs", "batch_size"], "batch_size"),
        ("lr", ["low_rank", "lr"], "lr"),
        ("Hippocampus", ["hippocampus", "brain"], "hippocampus"),
        ("zebra", ["hippocampus", "lr"], None),
        ("num_epochs", ["num_depths", "epochs"], "epochs"),
        ("workers", ["num_filters", "num_workers"], "num_workers"),
        ("device", ["wide_views"], None),
        ("e", ["epochs"], None),
        ("", ["epochs"], None),
    ],
)
def test_the_nearest_name(word, names, near):
    assert nearest(word, iter(names)) == near


def test_the_question_or_what_is_said_otherwise():
    assert did_you_mean("epoch", ["epochs"], "see --help") == "did you mean epochs?"
    assert did_you_mean("zebra", ["epochs"], "see --help") == "see --help"
