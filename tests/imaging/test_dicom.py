"""DICOM series become the same volume as in SimpleITK, from folders, zips and compressed files."""

import gzip
import itertools
import subprocess
import sys
import zipfile
from pathlib import Path

import gdcm
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import COLUMNS, ORIGIN, PIXEL, ROWS, SECRETS, SLICES, STEP, above, ct, enhanced, image, normal, save, series, voxels
from nibabel.orientations import io_orientation
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from stand_in import Octants, octant_at

from rarecli.core.data.case_files import find_scans
from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.imaging.formats import dicom_files
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.imaging.volume import Volume, read_volume, write_image
from rarecli.core.info.info import info
from rarecli.core.prediction.predict import PredictOptions, predict

IN_ORDER = voxels().transpose(2, 1, 0)
# rows and columns of the image along these axes of the patient, in DICOM's left, posterior, superior
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial from above": (-1, 0, 0, 0, 1, 0),
    "axial on the side": (0, 1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "coronal turned": (0, 0, 1, 1, 0, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal from the left": (0, -1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
}


def points_of(volume):
    """The RAS points of all voxels."""
    return np.moveaxis(np.indices(volume.shape), 0, -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_series_is_what_simpleitk_reads(orientation, tmp_path):
    orientation = tuple(float(value) for value in ORIENTATIONS[orientation])
    path = save(tmp_path / "a", series(orientation=orientation)[::-1])
    volume = read_volume(path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    reference = reader.Execute()
    assert reference.GetSize() == volume.shape
    points = points_of(volume)
    for index in itertools.product(*map(range, volume.shape)):
        left, posterior, superior = reference.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(points[index], [-left, -posterior, superior], atol=1e-4)
        assert volume.data[0][index] == reference[index]
    assert sorted(ras_geometry(path)[0]) == [SLICES, ROWS, COLUMNS]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_of_a_series_lie_where_those_of_nifti_lie(orientation, tmp_path):
    orientation = tuple(float(value) for value in ORIENTATIONS[orientation])
    path = save(tmp_path / "scan", series(orientation=orientation))
    predict([path], Octants(), tmp_path / "out")
    labels = read_volume(tmp_path / "out" / "scan.nii.gz")
    middle = ORIGIN + np.array([*orientation]).reshape(2, 3).T @ [(COLUMNS - 1) / 2 * PIXEL[1], (ROWS - 1) / 2 * PIXEL[0]]
    middle = (middle + normal(orientation) * STEP * (SLICES - 1) / 2) * [-1, -1, 1]
    upright = np.zeros((3, 3))  # the scan's own axes, as near to right, anterior and superior as they come
    for column, (axis, flip) in zip(labels.affine[:3, :3].T, io_orientation(labels.affine), strict=True):
        upright[:, int(axis)] = flip * column / np.linalg.norm(column)
    expected = octant_at((points_of(labels).reshape(-1, 3) - middle) @ upright, np.zeros(3)).reshape(labels.shape)
    np.testing.assert_array_equal(labels.data[0], expected)


def test_the_affine_by_hand(tmp_path):
    """A coronal series: X to the left, Y down, Z = X x Y, which is to the anterior."""
    volume = read_volume(save(tmp_path / "a", series(orientation=ORIENTATIONS["coronal"])))
    np.testing.assert_array_equal(volume.affine, [[-1.5, 0, 0, 10], [0, 0, -3, -20], [0, -2, 0, 30], [0, 0, 0, 1]])
    assert volume.orientation == "LIP"


def test_every_slice_has_its_own_scale(tmp_path):
    images = series(**ct())
    for number, item in enumerate(images):
        item.RescaleSlope, item.RescaleIntercept = number + 0.5, -1024 + number
    expected = IN_ORDER * (np.arange(SLICES) + 0.5) + (-1024 + np.arange(SLICES))
    np.testing.assert_allclose(read_volume(save(tmp_path / "a", images)).data[0], expected)
    slopes = [0.5, 1.5, 2.5, 3.5]
    scaled = enhanced(order=[2, 3, 0, 1], slopes=slopes)
    np.testing.assert_allclose(read_volume(save(tmp_path / "b", [scaled])).data[0], IN_ORDER * slopes)


def test_signed_and_twelve_bit_values(tmp_path):
    signed = voxels().astype(np.int16) - 200
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a", series(signed))).data[0], signed.transpose(2, 1, 0))
    twelve = (signed.view(np.uint16) & 0x0FFF).astype(np.uint16)  # the sign is bit 11; the bits above are 0
    images = series(twelve, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "b", images)).data[0], signed.transpose(2, 1, 0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_compressed_by_pydicom(syntax, tmp_path):
    pixels = voxels(64, 48)
    images = series(pixels)
    for item in images:
        item.compress(syntax)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a", images)).data[0], pixels.transpose(2, 1, 0))
    both = enhanced(pixels, order=[1, 0, 3, 2])
    both.compress(syntax)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "b", [both])).data[0], pixels.transpose(2, 1, 0))


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEG2000Lossless", "RLELossless"])
def test_compressed_by_gdcm(syntax, tmp_path):
    path = save(tmp_path / "a", series(voxels(16, 16)))
    for file in path.iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert dcmread(file).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_volume(path).data[0], voxels(16, 16).transpose(2, 1, 0))


def test_pixels_that_no_package_decodes_are_refused_by_the_name_of_their_coding(tmp_path):
    images = series(voxels(64, 48))
    for item in images:
        item.compress(JPEG2000Lossless)
        item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4, which is no coding of slices
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        read_volume(save(tmp_path / "a", images))
    assert "MPEG-4" in str(caught.value)
    assert "IM000" in str(caught.value)


def zipped(path, images):
    folder = save(path.with_suffix(""), images)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("study/README.txt", "no DICOM")
        for file in sorted(folder.iterdir()):
            archive.write(file, f"study/../series/{file.name}")
    return path


def test_a_zip_is_read_without_being_unpacked(tmp_path):
    path = zipped(tmp_path / "exam 1.zip", series())
    before = set(tmp_path.rglob("*"))
    np.testing.assert_array_equal(read_volume(path).data[0], IN_ORDER)
    assert ras_geometry(path)[0] == (COLUMNS, ROWS, SLICES)
    assert set(tmp_path.rglob("*")) == before
    assert list(predict([path], Octants(), tmp_path / "out")["cases"]) == ["exam 1"]
    assert info(path)["kind"] == "scan, DICOM"


def test_one_file_of_an_enhanced_image_is_a_scan(tmp_path):
    path = save(tmp_path / "a", [enhanced(order=[3, 2, 1, 0])]) / "IM000"
    np.testing.assert_array_equal(read_volume(path).data[0], IN_ORDER)
    assert info(path)["spacing"] == "1.5 x 2 x 3 mm"


def test_info_lists_the_series_and_describes_one(tmp_path):
    path = save(tmp_path / "a", series())
    save(path / "b", series(series="1.2.99", SeriesDescription="FLAIR"))
    facts = info(path)
    assert facts == {
        "kind": "DICOM, 2 series",
        "series": ["1.2.3.4  MR, T1 sagittal, 4 slices, 1.5 x 2 x 3 mm", "1.2.99  MR, FLAIR, 4 slices, 1.5 x 2 x 3 mm"],
    }
    assert info(path, series="1.2.99")["shape"] == "6 x 5 x 4 voxels, 1 channel"


def test_resume_sees_a_changed_slice(tmp_path):
    path = save(tmp_path / "scan", series())
    model = Octants()
    predict([path], model, tmp_path / "out")
    calls = []
    model.segment = lambda volume, choice, **options: calls.append(1) or Octants.segment(model, volume, choice, **options)
    predict([path], model, tmp_path / "out", PredictOptions(resume=True))
    assert calls == []
    image(voxels()[1] + 1, above(STEP)).save_as(path / "IM001", enforce_file_format=True)
    predict([path], model, tmp_path / "out", PredictOptions(resume=True))
    assert calls == [1]


def test_nothing_of_the_patient_is_in_any_file_or_word(tmp_path):
    """Results, records and messages of the command line; also for a header that pydicom warns about."""
    images = series(PatientAge="Muster", StudyInstanceUID="1.2.Muster")
    path = save(tmp_path / "scan", images)
    probe = (
        f"import sys\nsys.path[:0] = {[p for p in sys.path if p]}\nfrom pathlib import Path\nfrom stand_in import Octants\n"
        "import rarecli.core.prediction.predict as module\nfrom rarecli.core.prediction.predict import PredictOptions, predict\n"
        "from rarecli.commands.console import Console\n"
        "predict([Path(sys.argv[1])], Octants(), Path(sys.argv[2]), PredictOptions(probabilities=True, picture=True), Console())\n"
    )
    result = subprocess.run([sys.executable, "-c", probe, path, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    names = {item.name for item in (tmp_path / "out").iterdir()}
    of_all = {"predictions.json", "volumes.csv", "finished.jsonl", "labels_itksnap.txt", "labels_slicer.ctbl"}
    assert names == {"scan.nii.gz", "scan_probabilities.nii.gz", "scan.json", "scan.png"} | of_all
    for file in (tmp_path / "out").iterdir():
        raw = file.read_bytes()
        if file.suffix == ".gz":
            raw = gzip.decompress(raw)
        said += raw.decode("latin-1")
    assert not [secret for secret in SECRETS if secret in said]


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
    path = save(tmp_path / "a", series())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for action in (dicom_files.pydicom, lambda: read_volume(path), lambda: predict([path], Octants(), tmp_path / "out")):
        with pytest.raises(EnvironmentFault, match="pydicom is not installed") as caught:
            action()
        assert "rare-unet[dicom]" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("T1 ERIKA_MUSTER 07.11.1961", "T1"),
        ("T1 1961-11-07 ax", "T1 ax"),
        ("11/07/1961 FLAIR", "FLAIR"),
        ("MusterErika T2", "T2"),
        ("T2 PAT4711 1mm", "T2 1mm"),
        ("t1_mprage 2 x 2", "t1_mprage 2 x 2"),
    ],
)
def test_descriptions_tell_nothing_of_the_patient(given, kept, tmp_path):
    save(tmp_path / "a", series(SeriesDescription=given))
    save(tmp_path / "a" / "b", series(series="1.2.99", SeriesDescription="other"))
    with pytest.raises(UsageError) as caught:
        read_volume(tmp_path / "a")
    assert f"1.2.3.4  MR, {kept}, 4 slices" in str(caught.value)


@pytest.mark.parametrize("output", [".", "labels", "labels/labels.nii.gz"])
def test_results_do_not_lie_among_the_images(output, tmp_path):
    scan = save(tmp_path / "scan", series())
    before = sorted(scan.rglob("*"))
    with pytest.raises(UsageError, match="among the images"):
        predict([scan], Octants(), scan / output)
    assert sorted(scan.rglob("*")) == before


def test_a_folder_of_dicom_and_other_scans_is_refused(tmp_path):
    scan = save(tmp_path / "scan", series())
    write_image(scan / "converted.nii.gz", np.zeros((4, 4, 4)), Volume(np.zeros((1, 4, 4, 4)), np.eye(4)))
    with pytest.raises(DataError, match="DICOM images and other scans"):
        find_scans([scan])


def test_a_folder_is_called_as_the_user_calls_it(tmp_path, monkeypatch):
    for patient in "ab":
        folder = save(tmp_path / f"p_{patient}" / "DICOM", series())
        (tmp_path / patient).symlink_to(folder)
    assert [case.name for case in find_scans([tmp_path / "a", tmp_path / "b"])] == ["a", "b"]
    monkeypatch.chdir(tmp_path / "p_a" / "DICOM")
    (case,) = find_scans([Path()])
    assert (case.name, case.images[0].name) == ("DICOM", "DICOM")
