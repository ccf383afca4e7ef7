"""A word that is no option gets the option that was meant, or none."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["evaluate", "d", "--resolutions", "1"], "did you mean --depths?"),  # --route has more letters in common
        (["predict", "s", "--resolution", "1"], "did you mean --depth?"),
        (["preprocess", "d", "--workers", "4"], "did you mean --jobs?"),
        (["train", "p", "--num-workers", "4"], "did you mean --set num_workers=VALUE?"),
        (["train", "p", "--learning-rate", "1"], "did you mean --set optimiser.lr=VALUE?"),
        (["train", "p", "--epoch", "1"], "did you mean --epochs?"),
        (["predict", "s", "--ouput=x"], "did you mean --output?"),
        (["predict", "s", "--no-reports"], "did you mean --no-report?"),
        (["score", "a", "b", "--resolutions", "1"], "see rare score --help"),
        (["predict", "s", "--zebra"], "see rare predict --help"),
    ],
)
def test_an_unknown_option_gets_the_one_that_was_meant(rare, arguments, remedy):
    ended = rare(*arguments)
    option = next(word for word in arguments if word.startswith("--")).partition("=")[0]
    assert (ended.code, ended.stderr) == (2, f"Error: no such option: {option}\n  remedy: {remedy}\n")
