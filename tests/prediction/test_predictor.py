import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from torch.nn import functional

from rarecli import Phantom, Predictor, Volume
from rarecli.core.config.geometry import isotropic
from rarecli.core.config.run_folder import load_run_spec
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.imaging.restore import label_values
from rarecli.core.imaging.volume import write_image
from rarecli.core.model import build_network
from rarecli.core.model.checkpoint import load_weights
from rarecli.core.prediction.predict import PredictOptions, predict

AXES = ["".join(axes) for triple in itertools.permutations(["LR", "PA", "IS"]) for axes in itertools.product(*triple)]


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu") as loaded:
        yield loaded


def network_of(run):
    spec = load_run_spec(run)
    network = build_network(spec.network).eval()
    load_weights(network, run / "weights.safetensors")
    return network


@pytest.mark.parametrize("depth", range(4))
def test_a_coarse_scan_is_segmented_voxel_for_voxel_as_the_protocol_says(predictor, run, depth):
    # the paper's protocol, written out with torch and numpy: trilinear down, percentiles at that resolution, network, argmax
    fine, _ = Phantom(77).acquire(1.0)
    image = torch.from_numpy(fine.data)[None]
    if depth:
        image = functional.interpolate(image, scale_factor=0.5**depth, mode="trilinear", align_corners=False, antialias=False)
    low, high = np.percentile(image.numpy(), [0.5, 99.5])
    with torch.no_grad():
        expected = network_of(run)(((image - low) / (high - low)).clip(0, 1), isotropic(depth)).argmax(dim=1)[0].numpy()
    scan = Volume(image[0].numpy(), np.diag([2.0**depth] * 3 + [1.0]))
    prediction = predictor.predict(scan)
    assert prediction.entry == isotropic(depth)
    assert expected.any()
    np.testing.assert_array_equal(prediction.labels, expected)


@pytest.mark.parametrize("orientation", AXES)
def test_all_48_orientations_give_the_same_physical_answer(predictor, orientation):
    scan, _ = Phantom(5).acquire(4.0)
    expected = predictor.predict(scan)
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    turned = nib.orientations.apply_orientation(scan.data[0], transform)[None]
    prediction = predictor.predict(Volume(turned, scan.affine @ inv_ornt_aff(transform, scan.shape)))
    np.testing.assert_array_equal(prediction.labels, nib.orientations.apply_orientation(expected.labels, transform))


@pytest.mark.parametrize(("spacing", "depth"), [((1, 1, 1), 0), ((0.7, 1.2, 3), 0), ((2, 2.1, 2), 1), ((5, 5, 9), 2), ((20, 20, 20), 3)])
def test_labels_lie_on_the_grid_of_the_scan(predictor, spacing, depth):
    scan, _ = Phantom(3).acquire(spacing, "LPI")
    prediction = predictor.predict(scan, probabilities=True)
    assert prediction.entry == isotropic(depth)
    assert prediction.labels.shape == scan.shape
    assert prediction.labels.dtype == np.uint8
    assert prediction.probabilities.shape == (3, *scan.shape)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(prediction.affine, scan.affine)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 40), (33, 70, 32)])
def test_any_shape_is_segmented(predictor, shape):
    scan = np.random.default_rng(0).random(shape)
    assert predictor.predict(scan, np.eye(4)).labels.shape == shape


def test_a_forced_depth_is_taken_and_said(predictor):
    scan, _ = Phantom(3).acquire(1.0)
    prediction = predictor.predict(scan, depth=2)
    assert prediction.entry == (2, 2, 2)
    assert prediction.reason.startswith("requested with --depth")
    assert prediction.zoom == (0.25, 0.25, 0.25)
    with pytest.raises(UsageError, match="no such entry"):
        predictor.predict(scan, depth=4)


def test_padding_can_be_forbidden(predictor):
    fits = np.random.default_rng(0).random((32, 48, 33))  # z is longer than the patch: windows, no padding
    labels = predictor.predict(fits, np.eye(4), pad=False).labels
    np.testing.assert_array_equal(labels, predictor.predict(fits, np.eye(4)).labels)
    with pytest.raises(DataError, match="forbids padding") as caught:
        predictor.predict(fits[:31], np.eye(4), pad=False)
    assert "at least 32" in str(caught.value)
    with pytest.raises(DataError, match="forbids padding"):
        predictor.predict(np.ones((16, 16, 15)), np.diag([2.0, 2.0, 2.0, 1.0]), pad=False)


def test_another_number_of_channels_is_refused(predictor):
    scan, _ = Phantom(3, num_channels=2).acquire(4.0)
    with pytest.raises(ModelError) as caught:
        predictor.predict(scan)
    assert "found: 2" in str(caught.value)
    assert "expected: 1" in str(caught.value)


def test_classes_become_the_values_of_the_labels(predictor):
    spec = predictor.spec
    plan = spec.plan.model_copy(update={"label_values": (0, 7, 300)})
    values = label_values(np.array([0, 1, 2, 1], dtype=np.uint8), spec.model_copy(update={"plan": plan}))
    assert values.tolist() == [0, 7, 300, 7]
    assert values.dtype == np.uint16


def test_a_folder_is_predicted_and_recorded(predictor, tmp_path):
    for name, spacing in (("a", 1.0), ("b", 4.0)):
        scan, _ = Phantom(1).acquire(spacing)
        write_image(tmp_path / "in" / f"{name}.nii.gz", scan.data[0], scan)
    predict([tmp_path / "in"], predictor, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    names = {"a.nii.gz", "b.nii.gz", "a.json", "b.json", "predictions.json", "volumes.csv", "finished.jsonl"}
    names |= {"labels_itksnap.txt", "labels_slicer.ctbl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert [record["cases"][name]["entry"] for name in "ab"] == [[0, 0, 0], [2, 2, 2]]
    labels = nib.load(tmp_path / "out" / "b.nii.gz")
    volume = float((np.asarray(labels.dataobj) == 1).sum() * 4.0**3)
    assert record["cases"]["b"]["volumes_mm3"]["head"] == volume
    assert str(tmp_path) not in json.dumps(record)


def test_a_single_bad_case_raises_its_own_error(predictor, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError):
        predict([tmp_path / "a.nii.gz"], predictor, tmp_path / "single.nii.gz")
    assert not (tmp_path / "single.nii.gz").exists()


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_a_bundle_gives_the_labels_of_its_run(predictor, bundle, backend):
    with Predictor(bundle, backend=backend) as engines:
        assert engines.runner.backend == backend
        for spacing in (1.0, 2.0, 4.0, 8.0):
            scan, _ = Phantom(9).acquire(spacing)
            expected, found = predictor.predict(scan), engines.predict(scan)
            assert found.entry == expected.entry
            assert (found.labels != expected.labels).mean() < 1e-4


@pytest.mark.parametrize(
    ("data", "affine", "words"),
    [
        (np.full((4, 4, 4), np.nan), np.eye(4), "voxels that are not finite"),
        (np.zeros((4, 0, 4)), np.eye(4), "no voxels"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4)), "not invertible"),
        (np.zeros((4, 4, 4)), np.eye(4) + np.eye(4, k=1) * [0, 0.5, 0, 0], "right angles"),
    ],
)
def test_an_array_is_checked_as_a_file_is(predictor, data, affine, words):
    with pytest.raises(DataError, match=words):
        predictor.predict(data, affine)


def test_a_folder_is_not_predicted_into_itself(predictor, tmp_path):
    scan, _ = Phantom(1).acquire(8.0)
    write_image(tmp_path / "a.nii.gz", scan.data[0], scan)
    before = (tmp_path / "a.nii.gz").read_bytes()
    with pytest.raises(UsageError, match="would replace the scan"):
        predict([tmp_path], predictor, tmp_path)
    assert (tmp_path / "a.nii.gz").read_bytes() == before


def test_a_wrong_option_ends_the_batch_at_once(predictor, tmp_path):
    scan, _ = Phantom(1).acquire(8.0)
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.nii.gz", scan.data[0], scan)
    with pytest.raises(UsageError, match="no such entry"):
        predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(entry=(7, 7, 7)))


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(ModelError, match="not a model"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda logits: logits[:, :-1], "did not return logits"),
        (lambda logits: logits[..., :-1], "did not return logits"),
        (lambda logits: logits.astype(np.float64), "float64"),
        (lambda logits: np.where(logits == logits.max(), np.nan, logits), "not finite"),
        (lambda logits: np.where(logits == logits.max(), np.inf, logits), "not finite"),
    ],
)
def test_an_engine_that_answers_something_else_is_refused(bundle, monkeypatch, answer, words):
    with Predictor(bundle, backend="onnx") as predictor:
        run = predictor.runner.run
        monkeypatch.setattr(predictor.runner, "run", lambda image, entry: answer(run(image, entry)))
        with pytest.raises(ModelError, match=words) as caught:
            predictor.predict(np.random.default_rng(0).random((16, 16, 16)), np.diag([2.0, 2, 2, 1]))
    assert "depth 1, onnx" in str(caught.value)
