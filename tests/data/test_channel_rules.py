"""How channels are normalised: by the user's choice, or by their names."""

import json

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    Plan,
    ZScoreNormalisation,
)
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.channel_rules import kinds_of_channels, make_normalisation
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.info.info import info
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.startup import make_spec

NUMBERS = [(-100.0, 300.0, 40.0, 20.0), (0.0, 9.0, 3.0, 0.0)]


def test_the_names_of_channels_choose_as_in_nnunet():
    names = ("CT", "ct", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "T1", "CTA", "Z-Score", "percentile-nonzero")
    expected = ("ct", "ct", "none", "z-score", "rescale", "rgb", "percentile", "percentile", "z-score", "percentile-nonzero")
    assert kinds_of_channels(None, names) == expected
    assert kinds_of_channels("ct", names) == ("ct",) * 10


def test_channels_of_one_kind_have_one_rule():
    assert make_normalisation(("percentile", "percentile")) == PercentileNormalisation()
    assert make_normalisation(("rescale",)) == PercentileNormalisation(lower=0, upper=100)
    assert make_normalisation(("z-score",) * 3) == ZScoreNormalisation()
    both = CtNormalisation(lower=(-100, 0), upper=(300, 9), mean=(40, 3), std=(20, 1))  # a deviation of 0 divides by 1
    assert make_normalisation(("ct", "ct"), NUMBERS) == both
    assert make_normalisation(("ct",)) == PercentileNormalisation()  # until the dataset's statistics are known
    assert make_normalisation(("rgb",)) == CtNormalisation(lower=(0,), upper=(255,), mean=(0,), std=(255,))


def test_channels_of_several_kinds_have_a_rule_each():
    ct = CtNormalisation(lower=(0,), upper=(9,), mean=(3,), std=(1,))
    assert make_normalisation(("none", "ct"), NUMBERS) == PerChannelNormalisation(rules=(NoNormalisation(), ct))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"kind": "per-channel", "rules": [{"kind": "none"}]}, "one rule for each of 2 channels"),
        (
            {"kind": "per-channel", "rules": [{"kind": "none"}, {"kind": "ct", "lower": [0, 1], "upper": [1], "mean": [0], "std": [1]}]},
            "one number for each of 1 channels",
        ),
        ({"kind": "per-channel", "rules": [{"kind": "none"}, {"kind": "per-channel", "rules": [{"kind": "none"}]}]}, "per-channel"),
    ],
)
def test_a_rule_that_does_not_suit_the_channels_is_refused(rule, words):
    content = {"dataset": "d", "label_names": ("background", "a"), "label_values": (0, 1), "spacing_mm": (1, 1, 1)}
    with pytest.raises(ValueError, match=words):
        Plan(**content, channel_names=("a", "b"), patch_size=(32, 32, 32), num_levels=4, normalisation=rule)


def test_a_dataset_is_prepared_and_trained_by_the_names_of_its_channels(tmp_path):
    """CT and PET: one by the foreground of all cases, one by the mean and deviation of each whole scan, also in patches."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    scans = rng.normal(50, 20, (2, 2, 24, 24, 24)).astype(np.float32)
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, 8:16, 8:16] = 1
    for name, scan in zip("ab", scans, strict=True):
        for channel, data in enumerate(scan):
            nib.save(nib.Nifti1Image(data, np.eye(4)), root / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), root / "labelsTr" / f"{name}.nii.gz")
    content = {"channel_names": {"0": "CT", "1": "zscore"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    options = PreprocessOptions(num_levels=2, patch_size=(16, 16, 16), num_jobs=1)
    rule = preprocess(root, tmp_path / "out", options).plan.normalisation
    ct, score = rule.rules
    values = scans[:, 0][:, labels > 0]
    assert (ct.mean[0], ct.std[0]) == pytest.approx((values.mean(), values.std()), rel=1e-5)
    assert score == ZScoreNormalisation()
    assert info(tmp_path / "out")["normalisation"] == "ct, z-score"
    dataset = open_prepared(tmp_path / "out")
    config = load_train_config(overrides={"num_depths": 2, "augmentation.probability": 0.0})
    [patch] = PatchSource(dataset, make_spec(dataset, config), config)[0, 0, "a"]
    assert patch.labels.shape == (16, 16, 16)
    (_, (low, high)), _ = patch.limits
    assert (low, high - low) == pytest.approx((scans[0, 1].mean(), scans[0, 1].std()), rel=1e-5)
    whole = normalise(scans[0], rule)
    assert whole[1].mean() == pytest.approx(0, abs=1e-5)
    assert whole[1].std() == pytest.approx(1, rel=1e-5)
