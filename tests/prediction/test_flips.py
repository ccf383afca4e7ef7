import shutil

import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.config.run_folder import load_run_info, save_run_info
from rarecli.core.errors import UsageError
from rarecli.core.imaging.restore import softmax
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.prediction.flips import FLIPS, mean_over_flips


def test_all_eight_mirror_images_once():
    assert len(set(FLIPS)) == 8
    assert FLIPS[0] == ()


def test_the_mean_over_mirror_images_by_hand():
    """The network answers 1 in the first voxel along x of what it sees, so every flip along x moves that answer to the last voxel."""

    def first_voxel(image, entry):
        logits = np.zeros((1, 2, *image.shape[2:]), dtype=np.float32)
        logits[0, 1, 0] = np.log(3)  # probability .75
        return logits

    found = softmax(mean_over_flips(first_voxel)(np.zeros((1, 1, 3, 2, 2), dtype=np.float32), (0, 0, 0))[0])[1]
    np.testing.assert_allclose(found[0], 0.625, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(found[2], 0.625, rtol=1e-6)


def test_an_answer_that_turns_with_the_image_is_unchanged():
    image = np.random.default_rng(0).normal(size=(1, 2, 4, 6, 8)).astype(np.float32)

    def same(window, entry):
        assert window.flags.c_contiguous
        return window

    np.testing.assert_allclose(softmax(mean_over_flips(same)(image, (0, 0, 0))[0]), softmax(image[0]), rtol=1e-5)


def test_a_model_that_was_not_trained_on_mirror_images_is_refused(run):
    with pytest.raises(UsageError, match="mislead"):
        Predictor(run, device="cpu", tta=True)
    with pytest.raises(UsageError, match="a bundle, which does not tell"):
        Predictor("hippocampus", device="cpu", tta=True)


@pytest.fixture
def mirrored_run(run, tmp_path):
    """The run, as if it had been trained with flips."""
    copied = shutil.copytree(run, tmp_path / "run")
    info = load_run_info(copied)
    config = info.config.model_copy(update={"augmentation": info.config.augmentation.model_copy(update={"flip": True})})
    save_run_info(copied, info.model_copy(update={"config": config}))
    return copied


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_scan_gets_mirrored_labels(mirrored_run, axis):
    scan, _ = Phantom(4).acquire(4.0)  # one window without padding: without flips the network prefers no side by luck alone
    image = scan.data[0]
    with Predictor(mirrored_run, device="cpu", tta=True) as flipping, Predictor(mirrored_run, device="cpu") as plain:
        found = flipping.predict(image, (4, 4, 4), probabilities=True).probabilities
        mirrored = flipping.predict(np.flip(image, axis), (4, 4, 4), probabilities=True).probabilities
        np.testing.assert_allclose(np.flip(mirrored, 1 + axis), found, atol=1e-5)
        one = plain.predict(image, (4, 4, 4), probabilities=True).probabilities
        assert np.abs(one - found).max() > 1e-3
        assert flipping.key != plain.key
        choice = RouteChoice(entries=flipping.runner.entries)
        np.testing.assert_array_equal(flipping.segment(scan, choice, flips=False).labels, plain.predict(scan).labels)
