"""Scans as other libraries hold them are segmented as their files are, and the labels come back as the same kind of object."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as itk  # noqa: N813
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from rarecli import Phantom, Predictor
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.formats.in_memory import in_kind_of, volume_of
from rarecli.core.imaging.volume import write_image


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A scan of 8 mm whose axes point left, anterior and inferior, and not from the origin."""
    scan, _ = Phantom(4).acquire((8, 6, 9), "LAI")
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_image(path, scan.data[0], scan)
    return path


@pytest.fixture(scope="module")
def predictor():
    with Predictor("hippocampus", backend="onnx") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(predictor, file):
    labels = predictor.predict(file).labels
    assert len(np.unique(labels)) > 1
    return labels


def test_a_nibabel_image_gives_a_nibabel_image(predictor, file, expected):
    scan = nib.load(file)
    labels = predictor.predict(scan).labels
    assert isinstance(labels, nib.Nifti1Image)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), expected)
    np.testing.assert_array_equal(labels.affine, scan.affine)
    assert labels.header.get_xyzt_units() == scan.header.get_xyzt_units()
    assert int(labels.header["sform_code"]) == int(scan.header["sform_code"])


def test_a_simple_itk_image_gives_one_on_its_grid(predictor, file, expected):
    scan = itk.ReadImage(str(file))
    prediction = predictor.predict(scan, probabilities=True)
    np.testing.assert_array_equal(itk.GetArrayFromImage(prediction.labels).transpose(2, 1, 0), expected)
    for part in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(prediction.labels, part)() == getattr(scan, part)()
    assert prediction.probabilities.GetNumberOfComponentsPerPixel() == 3
    best = itk.GetArrayFromImage(prediction.probabilities).argmax(axis=-1)
    assert (best.transpose(2, 1, 0) == expected).mean() > 0.99


def test_a_dictionary_of_monai_gives_monai_s_labels(predictor, file, expected):
    loaded = LoadImaged("image", reader="NibabelReader", ensure_channel_first=True)({"image": str(file)})
    labels = predictor.predict(loaded).labels
    assert isinstance(labels, MetaTensor)
    assert labels.shape == (1, *expected.shape)
    np.testing.assert_array_equal(labels.numpy()[0], expected)
    np.testing.assert_array_equal(labels.affine, loaded["image"].affine)


def test_an_old_dictionary_of_monai_has_its_affine_beside_the_image(predictor, file, expected):
    scan = nib.load(file)
    labels = predictor.predict({"image": scan.get_fdata(), "image_meta_dict": {"affine": scan.affine}}).labels
    np.testing.assert_array_equal(labels, expected)


def test_arrays_and_tensors_come_with_an_affine_or_a_spacing(predictor, file, expected):
    scan = nib.load(file)
    data = torch.from_numpy(scan.get_fdata(dtype=np.float32))
    labels = predictor.predict(data, scan.affine).labels
    assert isinstance(labels, torch.Tensor)
    np.testing.assert_array_equal(labels.numpy(), expected)
    np.testing.assert_array_equal(predictor.predict(scan.get_fdata(), torch.from_numpy(scan.affine)).labels, expected)
    # by their spacing, the axes are those of the patient: left and inferior are flipped first
    flipped = scan.get_fdata()[::-1, :, ::-1]
    np.testing.assert_array_equal(predictor.predict(flipped, (8, 6, 9)).labels, expected[::-1, :, ::-1])


def test_the_geometry_of_every_kind_is_that_of_the_file(file):
    scan = nib.load(file)
    loaded = LoadImaged("image", reader="NibabelReader", ensure_channel_first=True)({"image": str(file)})
    for kind in (scan, itk.ReadImage(str(file)), loaded, loaded["image"]):
        volume = volume_of(kind)
        np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-5)
        np.testing.assert_allclose(volume.data[0], scan.get_fdata(), rtol=1e-6)


def test_metres_and_channels_of_a_nibabel_image_are_read_as_in_a_file():
    image = nib.Nifti1Image(np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    volume = volume_of(image)
    assert volume.data.shape == (5, 2, 3, 4)
    assert volume.data[4, 1, 2, 3] == 119
    np.testing.assert_allclose(volume.spacing_mm, (1, 2, 3))
    maps = in_kind_of(image, np.zeros((3, 2, 3, 4), np.float32))
    assert maps.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(maps.affine, image.affine)


@pytest.mark.parametrize(
    ("scan", "geometry", "words"),
    [
        (np.zeros((4, 4, 4)), None, "needs its affine or its spacing"),
        (np.zeros((4, 4, 4)), (1, 1), "neither an affine nor a spacing"),
        (np.zeros((4, 4, 4)), (1, 1, 0), "neither an affine nor a spacing"),
        (np.zeros((4, 4, 4)), "1 mm", "neither an affine nor a spacing"),
        (np.zeros((4, 4)), (1, 1, 1), "three axes"),
        (nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), (1, 1, 1), "its own geometry"),
        ({"label": 1}, None, "has no image"),
        ([[1, 2], [3, 4]], (1, 1, 1), "not a scan"),
        (itk.Image([4] * 4, itk.sitkFloat32), None, "three axes"),
    ],
)
def test_what_is_not_a_scan_is_refused_in_words(scan, geometry, words):
    with pytest.raises((UsageError, DataError), match=words):
        volume_of(scan, geometry)
