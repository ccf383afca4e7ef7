"""One scan gives the same labels in every form in which a file can store it."""

import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from rarecli import Phantom, Predictor
from rarecli.core.prediction.predict import predict

MODEL = "hippocampus"
ORIENTATIONS = ["".join(letters) for axes in permutations(["RL", "AP", "SI"]) for letters in product(*axes)]
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.fixture(scope="module")
def predictor():
    with Predictor(MODEL, backend="onnx") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def scan():
    """Return voxels that every dtype holds exactly, whole numbers from 0 to 120, and their affine: 12 x 16 x 12 voxels of 4 mm."""
    image, _ = Phantom(4, (48.0, 64.0, 48.0)).acquire(4.0)
    low, high = image.data.min(), image.data.max()
    return np.rint((image.data[0] - low) / (high - low) * 120), image.affine


@pytest.fixture(scope="module")
def expected(predictor, scan):
    labels = predictor.predict(*scan).labels
    assert 0 < (labels == 1).sum() < labels.size / 2
    assert (labels == 2).any()
    return labels


def store(path, voxels, affine, dtype="<i2", *, units="mm", slope=None, inter=0):
    """Write voxels unchanged and then the scale into the header, which nibabel would compute."""
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(voxels.astype(dtype), affine, header)
    image.header.set_xyzt_units(units)
    image.header.set_slope_inter(1, 0)
    nib.save(image, path)
    if slope is not None:
        raw = bytearray(path.read_bytes())
        raw[112:120] = np.array([slope, inter], dtype=f"{dtype[0]}f4").tobytes()
        path.write_bytes(raw)
    return path


def test_48_orientations(predictor, scan, expected, tmp_path):
    assert len(ORIENTATIONS) == 48
    voxels, affine = scan
    for orientation in ORIENTATIONS:
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
        path = store(tmp_path / "a.nii", apply_orientation(voxels, turn), affine @ inv_ornt_aff(turn, voxels.shape))
        found = predictor.predict(path)
        np.testing.assert_array_equal(found.labels, apply_orientation(expected, turn), err_msg=orientation)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_types_byte_orders_and_packing(predictor, scan, expected, tmp_path, endian, suffix):
    for dtype in DTYPES:
        path = store(tmp_path / f"a{suffix}", *scan, f"{endian}{dtype}")
        np.testing.assert_array_equal(predictor.predict(path).labels, expected, err_msg=dtype)


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -3), (0.25, 0), (-1, 120), (0, 77), (float("nan"), 1)])
def test_slopes_and_intercepts(predictor, scan, expected, tmp_path, slope, inter):
    voxels, affine = scan
    scaled = slope != 0 and np.isfinite(slope)
    stored = (voxels - inter) / slope if scaled else voxels
    for dtype in ("<i2", ">i4"):
        path = store(tmp_path / "a.nii", stored, affine, dtype, slope=slope, inter=inter)
        np.testing.assert_array_equal(predictor.predict(path).labels, expected)


@pytest.mark.parametrize(("units", "per_mm"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_units(predictor, scan, expected, tmp_path, units, per_mm):
    voxels, affine = scan
    found = predictor.predict(store(tmp_path / "a.nii", voxels, np.diag([per_mm] * 3 + [1]) @ affine, units=units))
    np.testing.assert_array_equal(found.labels, expected)


def test_a_gain_and_an_offset_of_the_scanner(predictor, scan, expected):
    voxels, affine = scan
    np.testing.assert_array_equal(predictor.predict(voxels * 4 + 1024, affine).labels, expected)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_threads(predictor, scan, expected, backend):
    """Except for voxels whose two best classes are nearly equal: the order of summation may swap them."""
    worse, best = np.sort(predictor.predict(*scan, probabilities=True).probabilities, axis=0)[-2:]
    certain = best - worse > 1e-3
    assert (~certain).sum() < 5
    for num_threads in (1, 2, 4):
        with Predictor(MODEL, device="cpu", backend=backend, num_threads=num_threads) as other:
            np.testing.assert_array_equal(other.predict(*scan).labels[certain], expected[certain])


def test_alone_or_in_a_folder(predictor, scan, expected, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        store(tmp_path / "in" / f"{name}.nii.gz", *scan)
    store(tmp_path / "in" / "other.nii.gz", scan[0][::-1, :10], scan[1])
    predict([tmp_path / "in"], predictor, tmp_path / "folder")
    predict([tmp_path / "in" / "b.nii.gz"], predictor, tmp_path / "alone.nii.gz")
    for path in (tmp_path / "alone.nii.gz", *(tmp_path / "folder" / f"{name}.nii.gz" for name in "abc")):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)
    record = json.loads((tmp_path / "folder" / "predictions.json").read_text())["cases"]
    assert record["a"]["volumes_mm3"] == record["c"]["volumes_mm3"] != record["other"]["volumes_mm3"]
