"""The command line takes a scan as DICOM, MetaImage and NIfTI, and gives the same labels in each format."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import SECRETS, image, save
from pydicom import dcmread
from typer.testing import CliRunner

from rarecli import Phantom
from rarecli.cli import app
from rarecli.core.errors import DataError, UsageError


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One phantom of 2 mm with whole numbers as intensities, in three formats."""
    root = tmp_path_factory.mktemp("scans")
    volume, _ = Phantom(2).acquire(2.0, "LPS")  # DICOM's own axes: X to the left, Y to the posterior
    stored = np.rint(volume.data[0] * 1000 / np.abs(volume.data).max()).astype(np.int16)
    nib.save(nib.Nifti1Image(stored, volume.affine), root / "scan.nii.gz")
    left, posterior, superior = np.diag([-1, -1, 1]) @ volume.affine[:3, 3]
    planes = [
        image(np.ascontiguousarray(stored[:, :, number].T), (left, posterior, superior + 2.0 * number), PixelSpacing=[2.0, 2.0])
        for number in range(stored.shape[2])
    ]
    save(root / "dicom", planes[::-1])
    meta = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    meta.SetSpacing((2.0, 2.0, 2.0))
    meta.SetOrigin((left, posterior, superior))
    sitk.WriteImage(meta, str(root / "scan.mha"))
    return root


def rare(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_one_scan_has_the_same_labels_in_every_format(scans, run, tmp_path):
    for source, output, options in (
        ("scan.nii.gz", "nifti.nii.gz", []),
        ("dicom", "dicom.nii.gz", []),
        ("scan.mha", "meta.mha", []),
        ("dicom", "out", ["--format", "dicom-seg", "--anonymise"]),
    ):
        result = rare("predict", scans / source, "-m", run, "-o", tmp_path / output, "--json", *options)
        assert result.exit_code == 0, result.output
        assert not [secret for secret in SECRETS if secret in result.output]
        assert len(json.loads(result.stdout)["cases"]) == 1
    reference = nib.load(tmp_path / "nifti.nii.gz")
    labels = np.asarray(reference.dataobj)
    assert len(np.unique(labels)) > 1
    from_dicom = nib.load(tmp_path / "dicom.nii.gz")
    np.testing.assert_allclose(from_dicom.affine, reference.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(from_dicom.dataobj), labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "meta.mha"))), labels.transpose(2, 1, 0))
    segmentation = dcmread(tmp_path / "out" / "dicom.dcm")
    assert segmentation.PatientName == ""
    found = np.zeros(labels.shape, int)
    bottom = reference.affine[2, 3]
    for frame, plane in zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True):
        number = round((frame.PlanePositionSequence[0].ImagePositionPatient[2] - bottom) / 2)
        found[:, :, number] += plane.T * frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(found, labels)


def test_python_takes_a_folder_of_dicom(scans, run):
    from rarecli import Predictor

    with Predictor(run, device="cpu", backend="torch") as predictor:
        one, two = predictor.predict(scans / "dicom", series="1.2.3.4"), predictor.predict(scans / "scan.nii.gz")
    np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["scan.nii.gz", "-o", "x", "--format", "dicom-seg"], UsageError, ["refers to DICOM images"]),
        (["scan.nii.gz", "-o", "x", "--format", "jpeg"], UsageError, ["no such format", "dicom-seg"]),
        (["scan.nii.gz", "-o", "x", "--codes", "none.yaml"], UsageError, ["codes are for DICOM segmentations"]),
        (["dicom", "-o", "x", "--format", "dicom-seg", "--codes", "none.yaml"], UsageError, ["cannot be read", "none.yaml"]),
        (["dicom", "-o", "x", "--series", "1.2.3"], UsageError, ["no such series", "1.2.3.4  MR"]),
        (["dicom", "-o", "x.nii.gz", "--format", "mha"], UsageError, ["disagree"]),
        (["scan.png", "-o", "x"], DataError, ["not a scan", ".nrrd", "DICOM"]),
    ],
)
def test_a_mistake_has_its_words(arguments, kind, words, scans, run, tmp_path, monkeypatch):
    monkeypatch.chdir(scans)
    (scans / "scan.png").write_bytes(b"PNG")
    arguments[2] = str(tmp_path / arguments[2])
    result = rare("predict", *arguments, "-m", run)
    assert isinstance(result.exception, kind)
    assert all(word in str(result.exception) for word in words)
    assert not (tmp_path / "x").exists()
