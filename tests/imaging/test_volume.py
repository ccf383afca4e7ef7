import itertools

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.errors import DataError
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.volume import Volume, read_labels, read_volume, require_same_grid, write_image, write_labels

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]  # fmt: skip
SHAPE = (4, 5, 6)
RAS_MM = np.array([[1.0, 0, 0, -5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
OBLIQUE = RAS_MM.copy()
OBLIQUE[:2, :2] = [[np.cos(0.3), -2 * np.sin(0.3)], [np.sin(0.3), 2 * np.cos(0.3)]]
GEOMETRY = [(76, 32), (123, 1), (252, 76)]
"""Offset and length in NIfTI-1: pixdim, xyzt_units, and from qform_code to the end of srow_z."""


def oriented(orientation):
    """Return an affine with array axes in the directions of the letters and spacings of 1, 2 and 3 mm."""
    affine = RAS_MM.copy()
    affine[:3, :3] = 0
    for column, letter in enumerate(orientation):
        row = ["RL", "AP", "SI"].index(next(pair for pair in ("RL", "AP", "SI") if letter in pair))
        affine[row, column] = (column + 1) * (1 if letter in "RAS" else -1)
    return affine


def save(path, data, affine=RAS_MM, *, codes=(1, 1), units="mm", kind=nib.Nifti1Image, **fields):
    image = kind(data, affine, dtype=data.dtype)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(units)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def geometry_bytes(path):
    raw = path.read_bytes()
    return [raw[start : start + length] for start, length in GEOMETRY]


def written_back(tmp_path, source):
    like = read_volume(source)
    result = tmp_path / "out.nii"
    write_labels(result, np.ones(like.shape, dtype=np.uint8), like)
    return result


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_fault_08_writing_keeps_every_orientation_bit_for_bit(tmp_path, orientation):
    """Written back bit for bit, in all 48 orientations."""
    source = save(tmp_path / "in.nii", np.zeros(SHAPE, dtype=np.int16), oriented(orientation))
    assert read_volume(source).orientation == orientation
    assert geometry_bytes(written_back(tmp_path, source)) == geometry_bytes(source)


@pytest.mark.parametrize("codes", [(1, 1), (2, 4), (0, 3), (1, 0)])
@pytest.mark.parametrize("units", ["mm", "micron", "meter", "unknown"])
def test_fault_08_writing_keeps_an_oblique_grid_codes_and_units_bit_for_bit(tmp_path, codes, units):
    """Affine, codes and units are written back bit for bit."""
    source = save(tmp_path / "in.nii", np.zeros(SHAPE, dtype=np.int16), OBLIQUE, codes=codes, units=units)
    result = written_back(tmp_path, source)
    assert geometry_bytes(result) == geometry_bytes(source)
    assert np.array_equal(read_volume(result).affine, read_volume(source).affine)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_writing_keeps_the_affine_of_every_kind_of_file(tmp_path, kind, endian):
    header = kind.header_class(endianness=endian)
    nib.save(kind(np.zeros(SHAPE, dtype=np.uint8), OBLIQUE, header), tmp_path / "in.nii")
    source = nib.load(tmp_path / "in.nii")
    result = nib.load(written_back(tmp_path, tmp_path / "in.nii"))
    assert np.array_equal(result.affine, source.affine)
    assert [int(result.header[code]) for code in ("qform_code", "sform_code")] == [
        int(source.header[code]) for code in ("qform_code", "sform_code")
    ]
    assert np.array_equal(np.asanyarray(result.dataobj), np.ones(SHAPE))


def test_no_form_set_stays_no_form_set(tmp_path):
    source = save(tmp_path / "in.nii", np.zeros(SHAPE, dtype=np.int16), codes=(0, 0))
    with pytest.warns(UserWarning, match="neither sform nor qform"):
        result = written_back(tmp_path, source)
    assert geometry_bytes(result) == geometry_bytes(source)


def test_free_text_of_the_source_is_not_written(tmp_path):
    secret = b"DOE^JANE"
    source = save(
        tmp_path / "in.nii",
        np.zeros(SHAPE, np.int16),
        descrip=secret,
        aux_file=secret,
        db_name=secret,
        intent_name=secret,
        data_type=secret,
    )
    like = nib.load(source)
    like.header.extensions.append(nib.nifti1.Nifti1Extension("comment", secret))
    nib.save(like, source)
    assert source.read_bytes().count(secret) >= 6
    assert secret not in written_back(tmp_path, source).read_bytes()


def test_the_scale_of_the_source_is_not_applied_to_labels(tmp_path):
    source = save(tmp_path / "in.nii", np.zeros(SHAPE, np.int16))
    raw = bytearray(source.read_bytes())
    raw[112:120] = np.array([3.0, 100.0], dtype="<f4").tobytes()
    source.write_bytes(raw)
    result = written_back(tmp_path, source)
    assert np.array_equal(nib.load(result).get_fdata(), np.ones(SHAPE))


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 3), SHAPE])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_come_back_as_written(tmp_path, shape, suffix):
    labels = np.random.default_rng(0).integers(0, 4, shape)
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels, Volume(np.zeros((1, *shape), np.float32), OBLIQUE))
    back = read_labels(path)
    assert np.array_equal(back.data[0], labels)
    assert back.affine == pytest.approx(OBLIQUE, abs=1e-6)
    assert nib.load(path).header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32)])
def test_fault_12_labels_are_as_small_as_they_can_be_and_never_wrap(tmp_path, largest, dtype):
    """Labels are written in the smallest dtype that holds them."""
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[1, 2, 3] = largest
    write_labels(tmp_path / "a.nii", labels, Volume(np.zeros((1, *SHAPE), np.float32), RAS_MM))
    assert nib.load(tmp_path / "a.nii").get_data_dtype() == dtype
    assert np.array_equal(read_labels(tmp_path / "a.nii").data[0], labels)


@pytest.mark.parametrize("huge", [2**32 + 1, -(2**40), 2**31])
def test_fault_12_labels_beyond_32_bits_are_refused_not_wrapped(tmp_path, huge):
    """Labels beyond 32 bits are refused."""
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[0, 0, 0] = huge
    with pytest.raises(DataError):
        read_labels(save(tmp_path / "a.nii", labels))


def test_an_image_with_channels_comes_back(tmp_path):
    image = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    write_image(tmp_path / "a.nii.gz", image, Volume(image, OBLIQUE))
    back = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(back.data, image)
    assert nib.load(tmp_path / "a.nii.gz").shape == (*SHAPE, 3)


def test_data_that_does_not_fit_the_grid_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="does not fit"):
        write_labels(tmp_path / "a.nii", np.zeros((1, 1, 1), np.uint8), Volume(np.zeros((1, *SHAPE)), RAS_MM))
    assert list(tmp_path.iterdir()) == []


def test_fault_22_float_labels_are_rounded_within_a_thousandth(tmp_path):
    """Rounded within 0.001."""
    labels = np.zeros(SHAPE, dtype=np.float64)
    labels[0, 0, :3] = [1.00000002, 1.999, 3]
    assert read_labels(save(tmp_path / "a.nii", labels)).data[0, 0, 0, :4].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("bad", [0.98, 1.5, np.nan, np.inf])
def test_fault_22_other_floats_are_no_labels(tmp_path, bad):
    """Refused, with the value."""
    labels = np.zeros(SHAPE, dtype=np.float64)
    labels[1, 1, 1] = bad
    with pytest.raises(DataError) as caught:
        read_labels(save(tmp_path / "a.nii", labels), case="c")
    assert f"the value {bad}" in str(caught.value)


def test_labels_with_channels_are_refused(tmp_path):
    with pytest.raises(DataError, match="one channel"):
        read_labels(save(tmp_path / "a.nii", np.zeros((*SHAPE, 2), np.uint8)))


def test_a_file_per_channel_is_stacked_in_order(tmp_path):
    files = [save(tmp_path / f"c_{index:04d}.nii", np.full(SHAPE, index, np.int16)) for index in range(3)]
    assert read_volume(files).data[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_channels_on_other_grids_are_refused_by_name(tmp_path):
    moved = RAS_MM.copy()
    moved[0, 3] += 1
    files = [save(tmp_path / "c_0000.nii", np.zeros(SHAPE, np.int16)), save(tmp_path / "c_0001.nii", np.zeros(SHAPE, np.int16), moved)]
    with pytest.raises(DataError, match=r"c_0001\.nii is on a different grid than c_0000\.nii"):
        read_volume(files)


def test_fault_14_names_the_channel_file_with_the_bad_voxel(tmp_path):
    """With one file per channel, the error names the right file."""
    bad = np.zeros(SHAPE, np.float32)
    bad[3, 2, 1] = np.nan
    files = [save(tmp_path / "c_0000.nii", np.zeros(SHAPE, np.float32)), save(tmp_path / "c_0001.nii", bad)]
    with pytest.raises(DataError) as caught:
        read_volume(files)
    assert caught.value.path == files[1]
    assert "(1, 3, 2, 1)" in str(caught.value)


@pytest.mark.parametrize(("shift", "same"), [(0.009, True), (0.02, False)])
def test_grids_are_one_within_a_hundredth_of_the_smallest_voxel(shift, same):
    moved = RAS_MM.copy()
    moved[1, 3] += shift
    one, other = Volume(np.zeros((1, *SHAPE)), RAS_MM), Volume(np.zeros((2, *SHAPE)), moved)
    if same:
        require_same_grid(other, one, "different")
        return
    with pytest.raises(DataError) as caught:
        require_same_grid(other, one, "different", case="c")
    assert "4 x 5 x 6 voxels of 1 x 2 x 3 mm, RAS, origin (-5, 6, 7)" in str(caught.value)


def test_spacing_and_orientation_follow_from_the_affine():
    volume = Volume(np.zeros((1, *SHAPE)), np.array([[0, -2.0, 0, 1], [0, 0, 3.0, 2], [0.5, 0, 0, 3], [0, 0, 0, 1]]))
    assert volume.spacing_mm == (0.5, 2, 3)
    assert volume.orientation == "SLA"


def test_a_volume_is_four_axes_and_a_4x4_affine():
    with pytest.raises(DataError, match="four axes"):
        Volume(np.zeros(SHAPE), RAS_MM)
    with pytest.raises(DataError, match="4x4"):
        Volume(np.zeros((1, *SHAPE)), np.eye(3))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_axes_and_spacing_along_ras_axes(orientation):
    scan = Volume(np.zeros((1, *SHAPE)), oriented(orientation))
    assert scan.axes.tolist() == nib.orientations.io_orientation(scan.affine).tolist()
    assert scan.orientation == orientation
    columns = [next(column for column, letter in enumerate(orientation) if letter in pair) for pair in ("RL", "AP", "SI")]
    assert scan.ras_spacing_mm == tuple(column + 1 for column in columns) == to_ras(scan).spacing_mm


def test_an_oblique_scan_turns_as_its_nearest_axes():
    scan = Volume(np.zeros((1, *SHAPE)), OBLIQUE)
    assert scan.orientation == "RAS"
    assert scan.ras_spacing_mm == scan.spacing_mm == pytest.approx((1, 2, 3))
