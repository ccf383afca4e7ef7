"""Laws that hold for every scan and every model, with hypothesis.

Laws of single rooms are tested there: Dice (test_metrics), resampling (test_resampling), routing (test_routing), pad and crop
(test_preprocessing, test_patches), any byte of a file (faults/fuzz.py). These are the laws of the full chain.
"""

import itertools
import json
from contextlib import ExitStack

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rarecli import Predictor
from rarecli.core.config import geometry
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging import routing
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.volume import Volume
from rarecli.core.prediction.predict import PredictOptions, predict

GEOMETRY = [(40, 8), (76, 16), (123, 1), (252, 76)]
"""Offset and length in NIfTI-1: sizes, spacing, units, and from qform_code to the end of srow_z."""
ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(["RL", "AP", "SI"]) for letters in itertools.product(*axes)]
slow = settings(deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
spacings = st.tuples(*[st.floats(0.2, 20)] * 3)


@pytest.fixture(scope="module")
def predictors(run, bundle):
    with ExitStack() as stack:
        yield {
            "torch": stack.enter_context(Predictor(run, device="cpu")),
            "onnx": stack.enter_context(Predictor(bundle, backend="onnx")),
        }


def affine_of(orientation, spacing):
    """Return an affine with array axes in the directions of the letters and these spacings in mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (letter, step) in enumerate(zip(orientation, spacing, strict=True)):
        row = next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[row, column] = step if letter in "RAS" else -step
    affine[:3, 3] = 3, -20, 0.5
    return affine


@slow
@given(
    st.tuples(*[st.integers(1, 24)] * 3),
    st.tuples(*[st.floats(1.5, 12)] * 3),
    st.sampled_from(ORIENTATIONS),
    st.sampled_from([(1, 1), (2, 4), (0, 3), (1, 0)]),
    st.sampled_from(["mm", "micron", "meter", "unknown"]),
    st.sampled_from(["<i2", ">i2", "<f4", "<u1", ">f8"]),
)
def test_predict_keeps_shape_affine_codes_and_units_and_stays_within_the_labels(
    predictors, tmp_path, shape, spacing, orientation, codes, units, dtype
):
    per_mm = {"mm": 1, "unknown": 1, "micron": 1000, "meter": 0.001}[units]
    affine = np.diag([per_mm] * 3 + [1]) @ affine_of(orientation, spacing)
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 200, shape).astype(dtype), affine, header)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(units)
    nib.save(image, tmp_path / "in.nii")
    predict([tmp_path / "in.nii"], predictors["onnx"], tmp_path / "out.nii", PredictOptions(overwrite=True))
    before, after = (tmp_path / "in.nii").read_bytes(), (tmp_path / "out.nii").read_bytes()
    for start, length in GEOMETRY:
        assert after[start : start + length] == before[start : start + length]
    assert set(np.unique(nib.load(tmp_path / "out.nii").dataobj)) <= {0, 1, 2}


@slow
@given(st.tuples(*[st.integers(1, 20)] * 3), spacings, st.sampled_from(ORIENTATIONS), st.integers(0, 2**31))
def test_every_orientation_has_the_same_physical_answer(predictors, shape, spacing, orientation, seed):
    voxels = np.random.default_rng(seed).random(shape, dtype=np.float32)
    steps = np.clip(spacing, 3.0, 8.0)
    turned = Volume(voxels[None], affine_of(orientation, steps))
    plain = to_ras(turned)
    answers = [predictors["onnx"].predict(volume) for volume in (turned, plain)]
    assert answers[0].entry == answers[1].entry
    back = to_ras(Volume(answers[0].labels[None], turned.affine))
    np.testing.assert_array_equal(back.data[0], answers[1].labels)
    np.testing.assert_allclose(back.affine, plain.affine)


@slow
@given(st.integers(0, 3), st.tuples(*[st.integers(0, 2)] * 3), st.integers(1, 2), st.integers(0, 2**31))
def test_torch_and_onnx_agree_at_every_depth_and_valid_shape(predictors, depth, more, batch, seed):
    levels = predictors["torch"].spec.network.num_levels
    entry = geometry.isotropic(depth)
    least, step = geometry.min_shape(levels, entry, any_size=False)[0], geometry.divisors(levels, entry)[0]
    shape = [least + extra * step for extra in more]
    image = np.random.default_rng(seed).random((batch, 1, *shape), dtype=np.float32)
    expected, found = (predictors[name].runner.run(image, entry) for name in ("torch", "onnx"))
    assert found.shape == expected.shape == (batch, 3, *shape)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@given(spacings, spacings, st.sampled_from(ORIENTATIONS), st.integers(1, 4))
def test_routing_is_deterministic_and_blind_to_axis_signs_and_orders(spacing, trained, orientation, num_depths):
    plain = Volume(np.zeros((1, 2, 2, 2), np.float32), affine_of("RAS", spacing))
    order = [next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair) for letter in orientation]
    turned = Volume(plain.data, affine_of(orientation, [spacing[axis] for axis in order]))
    entries = geometry.entry_set("isotropic", num_depths)
    ways = [routing.route(to_ras(volume).spacing_mm, trained, entries) for volume in (plain, turned, plain)]
    assert ways[0] == ways[1] == ways[2]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_an_evaluation_does_not_depend_on_the_order_of_its_cases(predictors, tmp_path, order):
    """It does not depend on earlier evaluations either."""
    names = write_phantoms(tmp_path / "data", range(3), 8.0)
    options = {"depths": [0, 1], "upsampled": False, "surface": False}
    whole = evaluate(tmp_path / "data", predictors["onnx"], tmp_path / "whole", EvaluateOptions(**options))
    shuffled = evaluate(
        tmp_path / "data", predictors["onnx"], tmp_path / "out", EvaluateOptions(names=[names[index] for index in order], **options)
    )
    for key in ("foreground_mean", "mean"):
        assert json.dumps(_rounded(shuffled[key])) == json.dumps(_rounded(whole[key]))
    rows = [sorted(json.dumps(row, sort_keys=True) for row in summary["metric_per_case"]) for summary in (whole, shuffled)]
    assert rows[0] == rows[1]
    alone = evaluate(tmp_path / "data", predictors["onnx"], tmp_path / "alone", EvaluateOptions(names=[names[1]], **options))
    assert {json.dumps(row, sort_keys=True) for row in alone["metric_per_case"]} <= set(rows[0])


def _rounded(content):
    return {key: _rounded(value) if isinstance(value, dict) else value and float(f"{value:.12g}") for key, value in content.items()}
