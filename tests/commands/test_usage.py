"""What the command line suggests: the option that was meant, the command that follows."""

import pytest

from rarecli.commands.preprocess import _preset
from rarecli.core.config.plan import Plan


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


@pytest.mark.parametrize(
    ("dataset", "fixed_shape", "options"),
    [("Hippocampus", False, ["--preset", "hippocampus"]), ("Hippocampus", True, []), ("Hippocampi", False, [])],
)
def test_after_preprocess_the_preset_with_the_name_of_the_dataset_is_said(dataset, fixed_shape, options):
    plan = Plan(
        dataset=dataset,
        channel_names=("MR",),
        label_names=("background", "x"),
        label_values=(0, 1),
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(32, 64, 32),
        num_levels=4,
        fixed_shape=fixed_shape,
    )
    assert _preset(plan) == options
