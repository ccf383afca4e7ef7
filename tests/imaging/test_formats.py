"""Every format gives the voxels that lie at the same place in mm, in eight orientations, and takes labels back."""

import gzip
import itertools
import struct
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from stand_in import Octants, octant_at

from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.imaging.formats import itk
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.imaging.volume import read_labels, read_volume, write_labels
from rarecli.core.prediction.predict import PredictOptions, predict

ORIENTATIONS = ("RAS", "LAS", "LPS", "RPI", "ASR", "PIR", "SAL", "ILP")
SHAPE, SPACING, ORIGIN = (4, 6, 8), (1.0, 2.0, 3.0), (-7.0, 11.0, 5.0)
FORMATS = ("nii", "nii2", "mgz", "mgh", "hdr", "hdr2", "mha", "mhd", "nrrd")


def at(points):
    """The intensity of the phantom at points in mm, RAS+: no two voxels are alike."""
    x, y, z = np.asarray(points, dtype=np.float64).T
    return x + 50 * y + 2000 * z


def grid(orientation):
    """The affine and the shape of the phantom's grid with its axes in this order."""
    ornt = axcodes2ornt(tuple(orientation))
    shape = tuple(SHAPE[int(axis)] for axis in ornt[:, 0])
    base = np.diag([*SPACING, 1.0])
    base[:3, 3] = ORIGIN
    return base @ inv_ornt_aff(axcodes2ornt(tuple("RAS")), SHAPE) @ _to(ornt, shape), shape


def _to(ornt, shape):
    """Voxel of an array in this orientation -> voxel in RAS."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for own, (axis, flip) in enumerate(ornt):
        matrix[int(axis), own] = flip
        if flip < 0:
            matrix[int(axis), 3] = shape[own] - 1
    return matrix


def indices(shape):
    return np.array(list(itertools.product(*map(range, shape))))


def phantom(orientation):
    affine, shape = grid(orientation)
    points = indices(shape) @ affine[:3, :3].T + affine[:3, 3]
    return at(points).reshape(shape).astype(np.float32), affine


def write(path, kind, orientation):
    """Write the phantom with nibabel, or with SimpleITK at the points that SimpleITK itself gives."""
    data, affine = phantom(orientation)
    if kind in ("mha", "mhd", "nrrd"):
        image = sitk.GetImageFromArray(np.zeros(data.shape[::-1], np.float32))
        columns = np.diag([-1, -1, 1]) @ affine[:3, :3]
        spacing = np.linalg.norm(columns, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((columns / spacing).ravel().tolist())
        image.SetOrigin((np.diag([-1, -1, 1]) @ affine[:3, 3]).tolist())
        for index in indices(data.shape):
            left, posterior, superior = image.TransformIndexToPhysicalPoint(index.tolist())
            image[index.tolist()] = float(at([[-left, -posterior, superior]])[0])
        sitk.WriteImage(image, str(path), kind != "mhd")
        return path
    kinds = {"nii": nib.Nifti1Image, "nii2": nib.Nifti2Image, "mgz": nib.MGHImage, "mgh": nib.MGHImage}
    kinds |= {"hdr": nib.Nifti1Pair, "hdr2": nib.Nifti2Pair}
    nib.save(kinds[kind](data, affine), path)
    return path


def file_name(kind):
    return f"scan.{kind.removesuffix('2') if kind != 'nii2' else 'nii.gz'}"


def independently(path):
    """The labels of a file and the RAS points of its voxels, by nibabel or SimpleITK."""
    if path.suffix in (".mha", ".mhd", ".nrrd"):
        image = sitk.ReadImage(str(path))
        voxels = indices(image.GetSize())
        points = [np.diag([-1, -1, 1]) @ image.TransformIndexToPhysicalPoint(index.tolist()) for index in voxels]
        return np.array([image[index.tolist()] for index in voxels]), np.array(points)
    image = nib.load(path)
    voxels = indices(image.shape)
    return np.asarray(image.dataobj).ravel(), voxels @ image.affine[:3, :3].T + image.affine[:3, 3]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_voxels_lie_where_they_lie_in_nifti_and_so_do_their_labels(kind, orientation, tmp_path):
    path = write(tmp_path / file_name(kind), kind, orientation)
    volume = read_volume(path)
    points = indices(volume.shape) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(volume.data[0].ravel(), at(points), atol=1e-2)
    assert sorted(volume.spacing_mm) == pytest.approx([1, 2, 3])
    assert ras_geometry(path) == (SHAPE, pytest.approx(SPACING), 1)

    predict([path], Octants(), tmp_path / "out")
    suffix = {"nii": "nii.gz", "nii2": "nii.gz", "hdr2": "hdr", "mgh": "mgz"}.get(kind, kind)
    labels, points = independently(tmp_path / "out" / f"scan.{suffix}")
    centre = np.array(ORIGIN) + (np.array(SHAPE) - 1) * SPACING / 2
    np.testing.assert_array_equal(labels, octant_at(points, centre))
    assert set(labels) == set(range(1, 9))


def test_the_phantom_is_upright():
    """The oracle of this file by hand: RAS keeps the origin, LPS begins in the other corner."""
    affine, shape = grid("LPS")
    assert shape == SHAPE
    np.testing.assert_array_equal(affine, [[-1, 0, 0, -4], [0, -2, 0, 21], [0, 0, 3, 5], [0, 0, 0, 1]])
    affine, shape = grid("ASR")
    assert shape == (6, 8, 4)
    np.testing.assert_array_equal(affine, [[0, 0, 1, -7], [2, 0, 0, 11], [0, 3, 0, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("wanted", ["nifti", "mgz", "mha", "mhd", "nrrd", "hdr"])
def test_any_format_becomes_any_other(wanted, tmp_path):
    scan = write(tmp_path / "scan.mgz", "mgz", "PIR")
    predict([scan], Octants(), tmp_path / "out", PredictOptions(format=wanted))
    (labels,) = [path for path in (tmp_path / "out").glob("scan.*") if path.suffix not in (".raw", ".img", ".json")]
    values, points = independently(labels)
    centre = np.array(ORIGIN) + (np.array(SHAPE) - 1) * SPACING / 2
    np.testing.assert_array_equal(values, octant_at(points, centre))
    np.testing.assert_array_equal(read_labels(labels).data[0].ravel(), values)


def test_nifti_2_stays_nifti_2(tmp_path):
    predict([write(tmp_path / "scan.nii.gz", "nii2", "LPS")], Octants(), tmp_path / "out")
    assert isinstance(nib.load(tmp_path / "out" / "scan.nii.gz"), nib.Nifti2Image)
    predict([write(tmp_path / "scan.hdr", "hdr2", "LPS")], Octants(), tmp_path / "pair")
    assert isinstance(nib.load(tmp_path / "pair" / "scan.hdr"), nib.Nifti2Pair)


def test_the_geometry_of_a_freesurfer_volume_comes_back_bit_for_bit(tmp_path):
    affine = np.array([[-0.9, 0.1, 0.02, 3.3], [0.09, 0.91, -0.05, 1.7], [0.01, 0.04, 1.1, -2.9], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [0.8, 0.9, 1.3]
    nib.save(nib.MGHImage(np.ones((3, 4, 5), np.float32), affine), tmp_path / "a.mgz")
    predict([tmp_path / "a.mgz"], Octants(), tmp_path / "b.mgz")
    for field in ("delta", "Mdc", "Pxyz_c"):
        np.testing.assert_array_equal(nib.load(tmp_path / "b.mgz").header[field], nib.load(tmp_path / "a.mgz").header[field])


def test_channels_of_every_format(tmp_path):
    data, affine = phantom("LAS")
    two = np.stack([data, data + 7], axis=-1)
    nib.save(nib.MGHImage(two, affine), tmp_path / "a.mgz")
    nib.save(nib.Nifti1Pair(two, affine), tmp_path / "a.hdr")
    for name in ("a.mha", "a.nrrd"):
        image = sitk.GetImageFromArray(np.ascontiguousarray(two.transpose(2, 1, 0, 3)), isVector=True)
        sitk.WriteImage(image, str(tmp_path / name))
    four = sitk.GetImageFromArray(np.ascontiguousarray(two.transpose(3, 2, 1, 0)), isVector=False)
    sitk.WriteImage(four, str(tmp_path / "b.mha"))
    for name in ("a.mgz", "a.hdr", "a.mha", "a.nrrd", "b.mha"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, two.transpose(3, 0, 1, 2))
        assert ras_geometry(tmp_path / name)[2] == 2


def analyze(path, shape=SHAPE, **fields):
    image = nib.Spm99AnalyzeImage(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), None)
    image.header.set_zooms(SPACING)
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    path.with_suffix(".mat").unlink(missing_ok=True)
    return path


def test_analyze_runs_to_the_left_as_in_nibabel_and_a_note_says_so(tmp_path):
    path = analyze(tmp_path / "a.img")
    with pytest.warns(UserWarning, match="does not tell left from right"):
        volume = read_volume(path)
    reference = nib.load(path)
    assert volume.orientation == "LAS"
    np.testing.assert_array_equal(volume.affine, reference.affine)
    np.testing.assert_array_equal(volume.data[0], reference.get_fdata())
    with pytest.warns(UserWarning, match="left from right"):
        predict([path], Octants(), tmp_path / "out")
    labels = nib.load(tmp_path / "out" / "a.hdr")
    assert isinstance(labels, nib.AnalyzeImage)
    np.testing.assert_array_equal(labels.affine, reference.affine)
    assert np.asarray(labels.dataobj)[0, -1, 0] == 1 + 1 + 2  # index 0 of LAS is the right side


@pytest.mark.parametrize(("field", "value", "words"), [("orient", 1, "orient"), ("pixdim", [0, 1, 0, 1, 0, 0, 0, 0], "pixdim")])
def test_analyze_without_a_known_geometry_is_refused(field, value, words, tmp_path):
    with pytest.raises(DataError, match=r"plane of the slices|spacing is unknown") as caught:
        read_volume(analyze(tmp_path / "a.hdr", **{field: value}))
    assert words in str(caught.value)


def test_analyze_with_its_geometry_elsewhere_is_refused(tmp_path):
    path = analyze(tmp_path / "a.hdr")
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"in a \.mat file"):
        read_volume(path)


def test_a_pair_without_its_other_half_is_refused(tmp_path):
    write(tmp_path / "scan.hdr", "hdr", "RAS")
    (tmp_path / "scan.img").unlink()
    with pytest.raises(DataError, match="file is missing") as caught:
        read_volume(tmp_path / "scan.hdr")
    assert "scan.img" in str(caught.value.path)


def test_the_halves_of_a_pair_are_one_scan(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "scan.hdr", "hdr", "RAS")
    assert list(predict([tmp_path / "in"], Octants(), tmp_path / "out")["cases"]) == ["scan"]
    with pytest.raises(UsageError, match="would replace the scan"):
        predict([tmp_path / "in" / "scan.img"], Octants(), tmp_path / "in")


def refusal(path):
    with pytest.raises(DataError) as caught:
        read_volume(path, case="case 7")
    words = str(caught.value)
    assert "case: case 7" in words
    assert f"path: {path}" in words
    return words


META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
PLACE = "ElementSpacing = 1 2 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"


def meta(path, *lines, data=bytes(48), spacing=PLACE):
    path.write_bytes((META + spacing + "".join(f"{line}\n" for line in lines)).encode() + data)
    return path


def test_a_meta_image_is_read_where_it_is_sound(tmp_path):
    path = meta(tmp_path / "a.mha", "DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL")
    assert read_volume(path).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("lines", "spacing", "words"),
    [
        (("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"), "", "the spacing is unknown"),
        (("DimSize = 2 3 5", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"), PLACE, "more voxels than the file can hold"),
        (("DimSize = 32767 32767 32767", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"), PLACE, "more voxels than the file"),
        (("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = ../secret.raw"), PLACE, "files that are not read"),
        (("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = /etc/hostname"), PLACE, "files that are not read"),
        (("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LIST"), PLACE, "files that are not read"),
        (("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = other.raw"), PLACE, "voxels are in another file"),
        (("DimSize = 2 12", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"), PLACE, "three axes|header is broken"),
    ],
)
def test_what_a_meta_image_must_not_say(lines, spacing, words, tmp_path):
    (tmp_path / "other.raw").write_bytes(bytes(48))
    said = refusal(meta(tmp_path / "a.mha", *lines, spacing=spacing))
    assert any(word in said for word in words.split("|"))


def test_a_meta_image_without_orientation_is_noted(tmp_path):
    path = meta(
        tmp_path / "a.mha", "DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", spacing="ElementSpacing = 1 2 3\n"
    )
    with pytest.warns(UserWarning, match="no orientation"):
        assert read_volume(path).spacing_mm == (1, 2, 3)


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little\n"
SPACE = "space: left-posterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (0,0,0)\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("", "the spacing is unknown"),
        (SPACE + "data file: other.raw\n", "voxels are in another file"),
        (SPACE + 'space units: "um" "um" "um"\n', "unit of length"),
        (SPACE.replace("(0,0,3)", "(0,1,3)"), "right angles"),
        ("spacings: nan nan nan\n", "spacing is unknown"),
        ("spacings: 2 2 NaN\n", "spacing is unknown"),
        (SPACE.replace("(0,0,3)", "none"), "spacing is unknown"),
        ('spacings: 2 2 3\nunits: "cm" "cm" "cm"\n', "unit of length"),
    ],
)
def test_what_a_nrrd_must_not_say(fields, words, tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes((NRRD + fields + "\n").encode() + bytes(48))
    assert words in refusal(path)


@pytest.mark.parametrize(("unit", "refused"), [("um", True), ("cm", True), ("mm", False), ("?", False)])
def test_a_meta_image_in_other_units_is_refused(unit, refused, tmp_path):
    spacing = f"ElementSpacing = 1 2 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nDistanceUnits = {unit}\n"
    fields = ("DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL")
    path = meta(tmp_path / "a.mha", *fields, spacing=spacing)
    if refused:
        assert "unit of length" in refusal(path)
    else:
        assert read_volume(path).spacing_mm == (1, 2, 3)


def test_a_nrrd_of_channels_has_an_axis_without_a_spacing(tmp_path):
    path = tmp_path / "a.nrrd"
    fields = NRRD.replace("dimension: 3", "dimension: 4").replace("sizes: 2", "sizes: 2 2")
    fields += SPACE.replace("directions: ", "directions: none ") + "kinds: vector domain domain domain\n\n"
    path.write_bytes(fields.encode() + bytes(96))
    volume = read_volume(path)
    assert (volume.num_channels, volume.shape, volume.spacing_mm) == (2, (2, 3, 4), (1, 2, 3))


def test_a_nrrd_in_ras_is_read_in_ras(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes((NRRD + SPACE.replace("left-posterior", "right-anterior") + "\n").encode() + bytes(48))
    np.testing.assert_array_equal(read_volume(path).affine, np.diag([1, 2, 3, 1]))


MGH_TYPE, MGH_GOOD, MGH_DIMS = 20, 28, 4


@pytest.mark.parametrize(
    ("offset", "form", "value", "words"),
    [
        (0, ">i", 2, "version"),
        (MGH_DIMS, ">i", 32767, "more voxels than the file can hold"),
        (MGH_DIMS, ">i", 0, "positive sizes"),
        (MGH_TYPE, ">i", 5, "plain number"),
        (MGH_GOOD, ">h", 0, "goodRASFlag"),
        (30, ">f", float("nan"), "not invertible"),
    ],
)
def test_a_broken_freesurfer_header_is_refused(offset, form, value, words, tmp_path):
    path = write(tmp_path / "a.mgh", "mgh", "RAS")
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, offset, value)
    path.write_bytes(raw)
    assert words in refusal(path)


def test_a_freesurfer_volume_that_is_cut_short_or_misnamed_is_refused(tmp_path):
    path = write(tmp_path / "a.mgz", "mgz", "RAS")
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    assert "compressed file is broken" in refusal(path)
    path.write_bytes(gzip.decompress(raw))
    assert "not what its name says" in refusal(path)
    whole = gzip.decompress(raw)
    (tmp_path / "b.mgh").write_bytes(whole[: 284 + 100])
    assert "more voxels than the file can hold" in refusal(tmp_path / "b.mgh")


@pytest.mark.parametrize("kind", ["mha", "nrrd", "mhd"])
def test_a_file_that_is_cut_short_is_refused(kind, tmp_path):
    path = write(tmp_path / f"a.{kind}", kind, "RAS")
    data = path.with_suffix(".raw") if kind == "mhd" else path
    data.write_bytes(data.read_bytes()[:-30])
    assert str(path.name) in refusal(path)


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(EnvironmentFault, match="SimpleITK is not installed") as caught:
        itk.simple_itk()
    assert "rare-unet[formats]" in caught.value.remedy
    path = meta(tmp_path / "a.mha", "DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL")
    with pytest.raises(EnvironmentFault, match="SimpleITK"):
        read_volume(path)
    scan = write(tmp_path / "scan.nii", "nii", "RAS")
    with pytest.raises(EnvironmentFault, match="SimpleITK"):
        predict([scan], Octants(), tmp_path / "out", PredictOptions(format="nrrd"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz", "a.mha", "a.mhd", "a.nrrd", "a.hdr"])
@pytest.mark.parametrize("largest", [255, 1000])
def test_labels_keep_their_values_in_every_format(name, largest, tmp_path):
    data, affine = phantom("RAS")
    labels = np.zeros(data.shape, np.int64)
    labels[1, 2, 3] = largest
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii")
    write_labels(tmp_path / name, labels, read_volume(tmp_path / "scan.nii"))
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(read_labels(tmp_path / name).data[0], labels)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "output", "words"),
    [
        ({"format": "dicom"}, "out", ["no such format", "nifti, mgz, mha, mhd, nrrd, hdr, dicom-seg"]),
        ({"format": "dicom-seg"}, "out", ["refers to DICOM images"]),
        ({"format": "mha"}, "out.nii.gz", ["disagree", "out.nii.gz", ".mha"]),
        ({}, "out.dcm", ["refers to DICOM images"]),
        ({"codes": "x.yaml"}, "out", ["codes are for DICOM segmentations", "--format dicom-seg"]),
    ],
)
def test_a_format_that_cannot_be_is_refused_before_anything_is_computed(options, output, words, tmp_path):
    scan = write(tmp_path / "scan.nii", "nii", "RAS")
    with pytest.raises(UsageError) as caught:
        predict([scan], Octants(), tmp_path / output, PredictOptions(**options))
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / output).exists()
