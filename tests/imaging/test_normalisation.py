import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    ZScoreNormalisation,
)
from rarecli.core.imaging.normalisation import depends_on_scan, limits_of, normalise, percentile_limits

PERCENTILE = PercentileNormalisation()


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_normalise_is_numpy_percentiles_clipped(dtype):
    image = (np.random.default_rng(0).gamma(2, 100, (2, 7, 8, 9))).astype(dtype)
    for found, channel in zip(normalise(image, PERCENTILE), image, strict=True):
        low, high = np.percentile(channel, [0.5, 99.5])
        assert found == pytest.approx(np.clip((channel - low) / (high - low), 0, 1), abs=1e-5)


def test_percentiles_by_hand():
    """0..200: 0.5 % of 200 steps is step 1, 99.5 % step 199."""
    image = np.arange(201, dtype=np.float32)[::-1].reshape(1, 201, 1, 1)
    assert percentile_limits(image, PERCENTILE) == ((pytest.approx(1), pytest.approx(199)),)
    assert normalise(image, PERCENTILE).ravel()[[200, 199, 100, 1, 0]] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


SPARSE = np.zeros((1, 10, 10, 10), dtype=np.float32)
SPARSE[0, 0, 0, :2] = 3, 4  # 0.2 % of the voxels, so that both percentiles are 0


@pytest.mark.parametrize(
    ("image", "limits", "normalised"),
    [
        # percentiles of (3, 4): 3.005 and 3.995; the fill value 0 lies below both
        (SPARSE, (0, 3.995), [3 / 3.995, 1, 0]),
        # most voxels have the largest value: 10 fills the rest, percentiles of (6, 7) are 6.005 and 6.995
        (10 - SPARSE, (6.005, 10), [(7 - 6.005) / 3.995, 0, 1]),
        # a fill value between the others: -3 and 4 lie on both sides of it, percentiles -2.965 and 3.965
        (np.where(SPARSE == 3, -3, SPARSE).astype(np.float32), (-2.965, 3.965), [0, 1, 2.965 / 6.93]),
        # a structure of one value
        ((SPARSE > 0).astype(np.float32) * 5, (0, 5), [1, 1, 0]),
    ],
)
def test_a_small_structure_on_a_constant_background_is_kept(image, limits, normalised):
    """A vessel in 0.2 % of the voxels must not vanish: both percentiles are the background."""
    assert percentile_limits(image, PERCENTILE) == (pytest.approx(limits),)
    result = normalise(image, PERCENTILE)
    assert result[0, 0, 0, :3] == pytest.approx(normalised, abs=1e-6)
    assert (result[0, 1:] == result[0, 0, 0, 2]).all()


def test_each_channel_has_its_own_fill_value():
    both = np.concatenate([SPARSE, np.random.default_rng(0).random(SPARSE.shape).astype(np.float32)])
    alone = [normalise(channel[None], PERCENTILE)[0] for channel in both]
    np.testing.assert_array_equal(normalise(both, PERCENTILE), np.stack(alone))


def test_fault_26_a_constant_channel_becomes_0():
    """Normalised to 0."""
    image = np.stack([np.full((3, 3, 3), 7.0), np.arange(27.0).reshape(3, 3, 3)]).astype(np.float32)
    result = normalise(image, PERCENTILE)
    assert not result[0].any()
    assert result[1].max() == 1


@given(arrays(np.int32, (1, 3, 3, 3), elements=st.integers(-(10**6), 10**6)))
def test_normalised_values_lie_within_0_and_1(image):
    result = normalise(image.astype(np.float32), PERCENTILE)
    assert np.isfinite(result).all()
    assert ((result >= 0) & (result <= 1)).all()


@pytest.mark.parametrize("values", [[1e-45, *[0] * 160], [3.4e38, -3.4e38] * 10], ids=["least float32", "largest float32"])
def test_fault_26_extreme_but_finite_values_give_finite_output(values):
    """The extremes of float32 stay finite as well."""
    with np.errstate(all="ignore"):
        result = normalise(np.array(values, np.float32).reshape(1, -1, 1, 1), PERCENTILE)
    assert np.isfinite(result).all()


@given(st.floats(0.5, 100), st.floats(-100, 100))
def test_percentile_normalisation_is_blind_to_gain_and_offset(gain, offset):
    image = noise(1, 5, 5, 5)
    changed = (image.astype(np.float64) * gain + offset).astype(np.float32)
    assert normalise(changed, PERCENTILE) == pytest.approx(normalise(image, PERCENTILE), abs=1e-3)


def test_given_limits_replace_the_image_s_own():
    image = np.array([0, 5, 10, 20], np.float32).reshape(1, 4, 1, 1)
    assert normalise(image, PERCENTILE, ((0.0, 10.0),)).ravel().tolist() == [0, 0.5, 1, 1]


def test_ct_by_hand_and_the_input_stays():
    rule = CtNormalisation(lower=(-100,), upper=(300,), mean=(100,), std=(50,))
    image = np.array([-1000, 0, 100, 1000], np.float32).reshape(1, 4, 1, 1)
    assert normalise(image, rule).ravel().tolist() == [-4, -2, 0, 4]
    assert image.ravel().tolist() == [-1000, 0, 100, 1000]


def test_z_scores_by_hand():
    """Mean 4, variance of the population (9 + 1 + 1 + 9) / 4 = 5; nothing is clipped; a constant channel becomes 0."""
    image = np.array([[1, 3, 5, 7], [0.1] * 4], np.float32).reshape(2, 4, 1, 1)
    found = normalise(image, ZScoreNormalisation()).reshape(2, 4)
    assert found[0] == pytest.approx(np.array([-3, -1, 1, 3]) / 5**0.5)
    assert found[1].tolist() == [0, 0, 0, 0]
    (low, high), constant = limits_of(image, ZScoreNormalisation())
    assert (low, high - low) == pytest.approx((4, 5**0.5))
    assert constant[0] == constant[1]


def test_every_channel_may_have_a_rule_of_its_own():
    image = np.array([[3, 9], [-1000, 50], [2, 4]], np.float32).reshape(3, 2, 1, 1)
    ct = CtNormalisation(lower=(-100,), upper=(100,), mean=(0,), std=(50,))
    rule = PerChannelNormalisation(rules=(NoNormalisation(), ct, PercentileNormalisation(lower=0, upper=100)))
    assert normalise(image, rule).ravel().tolist() == [3, 9, -2, 1, 0, 1]
    whole = limits_of(image, rule)
    assert whole[2] == (2, 4)
    assert normalise(image[:, :1], rule, whole).ravel().tolist() == [3, -2, 0]
    assert depends_on_scan(rule)
    assert not depends_on_scan(PerChannelNormalisation(rules=(NoNormalisation(), ct)))
