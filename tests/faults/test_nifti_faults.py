"""Faults 1 to 21, in NIfTI files, made by patching real bytes."""

import gzip
import os
import tracemalloc

import numpy as np
import pytest
from nifti_files import AFFINE, DATATYPE, DIM, INTER, MAGIC, PIXDIM, QFORM_CODE, SFORM_CODE, SLOPE, SROW, VOX_OFFSET, VOXELS, XYZT, make

from rarecli.core.errors import DataError
from rarecli.core.imaging.nifti import read_geometry, read_nifti
from rarecli.core.imaging.volume import read_volume

NO_FORMS = [(QFORM_CODE, "h", 0), (SFORM_CODE, "h", 0)]


def refusal(path):
    """Return the text of the DataError that reading must raise, with case and path."""
    with pytest.raises(DataError) as caught:
        read_volume(path, case="case 7")
    words = str(caught.value)
    assert "case: case 7" in words
    assert f"path: {path}" in words
    assert "found: " in words
    return words


def peak_bytes(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_fault_01_slope_0_or_nan_leaves_values_unscaled(tmp_path, slope):
    """The stored values are used without scaling."""
    volume = read_volume(make(tmp_path / "a.nii", (SLOPE, "f", slope), (INTER, "f", 10)))
    assert np.array_equal(volume.data[0], VOXELS)


def test_fault_02_intercept_nan(tmp_path):
    """Refused, naming scl_inter."""
    words = refusal(make(tmp_path / "a.nii", (SLOPE, "f", 2), (INTER, "f", np.nan)))
    assert "scl_inter" in words
    assert "found: nan" in words


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_fault_03_no_forms_and_no_spacing(tmp_path, bad):
    """Refused, naming pixdim; no spacing is invented."""
    words = refusal(make(tmp_path / "a.nii", *NO_FORMS, (PIXDIM + 8, "f", bad)))
    assert "pixdim" in words
    assert f"[1.0, {bad}, 3.0]" in words


def test_fault_03_a_qform_without_spacing(tmp_path):
    """Refused, although a qform is set."""
    assert "pixdim" in refusal(make(tmp_path / "a.nii", (SFORM_CODE, "h", 0), (PIXDIM + 4, "f", 0)))


def test_fault_04_no_forms_at_all_warns(tmp_path):
    """Read with the spacing of pixdim, and a warning that the orientation is unknown."""
    with pytest.warns(UserWarning, match=r"a\.nii: neither sform nor qform"):
        volume = read_volume(make(tmp_path / "a.nii", *NO_FORMS))
    assert volume.spacing_mm == (1, 2, 3)


def test_fault_05_forms_disagree(tmp_path):
    """Refused, naming both spacings."""
    words = refusal(make(tmp_path / "a.nii", (PIXDIM + 4, "f", 1.5)))
    assert "sform [1.0, 2.0, 3.0]" in words
    assert "qform [1.5, 2.0, 3.0]" in words


def test_fault_05_a_qform_that_is_not_set_does_not_count(tmp_path):
    """A form with code 0 is ignored; the columns of the affine give the spacing."""
    volume = read_volume(make(tmp_path / "a.nii", (PIXDIM + 4, "f", 1.5), (QFORM_CODE, "h", 0)))
    assert volume.spacing_mm == (1, 2, 3)


@pytest.mark.parametrize("row", [(np.nan, 0, 0, 0), (0, 0, 0, 0), (0, 2, 0, 0)])
def test_fault_06_sform_nan_or_singular(tmp_path, row):
    """Refused, naming srow."""
    words = refusal(make(tmp_path / "a.nii", (SROW, "4f", *row), (QFORM_CODE, "h", 0)))
    assert "not invertible" in words
    assert "srow" in words


def test_fault_07_shear(tmp_path):
    """Refused, with the cosine between the axes."""
    words = refusal(make(tmp_path / "a.nii", (SROW, "4f", 1, 0.5, 0, 0), (QFORM_CODE, "h", 0)))
    assert "right angles" in words
    assert "0.243" in words  # (0.5, 2) against (1, 0): 0.5 / sqrt(4.25)


def test_fault_07_a_little_shear_warns(tmp_path):
    """A shear below 0.01 is a warning."""
    with pytest.warns(UserWarning, match="not exactly at right angles"):
        read_volume(make(tmp_path / "a.nii", (SROW, "4f", 1, 0.004, 0, 0), (QFORM_CODE, "h", 0)))


def test_fault_08_an_oblique_affine_is_kept(tmp_path):
    """Read with its oblique affine."""
    turn = np.radians(20)
    oblique = AFFINE.copy()
    oblique[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ AFFINE[:2, :2]
    volume = read_volume(make(tmp_path / "a.nii", affine=oblique))
    assert np.array_equal(volume.affine, oblique.astype(np.float32))
    assert volume.spacing_mm == pytest.approx((1, 2, 3))


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_fault_09_units_become_mm(tmp_path, code, factor):
    """Converted to mm before anything else sees the affine."""
    path = make(tmp_path / "a.nii", (XYZT, "B", code))
    assert read_volume(path).affine == pytest.approx(np.diag([factor, factor, factor, 1]) @ AFFINE)
    assert read_geometry(path)[1] == pytest.approx(np.diag([factor, factor, factor, 1]) @ AFFINE)


def test_fault_09_seconds_beside_millimetres_change_nothing(tmp_path):
    """The unit of time is not mistaken for one of length."""
    assert read_volume(make(tmp_path / "a.nii", (XYZT, "B", 2 + 8))).spacing_mm == (1, 2, 3)


@pytest.mark.parametrize("code", [4, 7, 255])
def test_fault_09_an_unknown_unit_is_refused(tmp_path, code):
    """A code that NIfTI does not define is refused."""
    words = refusal(make(tmp_path / "a.nii", (XYZT, "B", code)))
    assert "unit" in words
    assert f"found: {code & 7}" in words  # the other bits are the unit of time


@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (2, 3, 4, 1, 1)])
def test_fault_10_a_last_axis_of_1_is_squeezed(tmp_path, shape):
    """(X, Y, Z, 1) is (X, Y, Z)."""
    assert np.array_equal(read_volume(make(tmp_path / "a.nii", data=VOXELS.reshape(shape))).data, VOXELS[None])


def test_fault_10_the_fourth_axis_is_the_channels(tmp_path):
    """(X, Y, Z, C) and (X, Y, Z, 1, C) have C channels; a number other than the model's is refused."""
    stack = np.stack([VOXELS, VOXELS + 100], axis=-1)
    data = read_volume(make(tmp_path / "a.nii", data=stack)).data
    assert np.array_equal(data, [VOXELS, VOXELS + 100])
    vectors = read_volume(make(tmp_path / "b.nii", data=stack[:, :, :, None])).data
    assert np.array_equal(vectors, data)


def test_fault_10_slices_of_one_voxel_keep_their_axis(tmp_path):
    """(X, Y, 1) and (X, Y) are read as three axes, the last with one voxel."""
    assert read_volume(make(tmp_path / "a.nii", data=VOXELS[:, :, :1])).shape == (2, 3, 1)
    assert read_volume(make(tmp_path / "b.nii", data=VOXELS[:, :, 0])).shape == (2, 3, 1)


def test_fault_10_two_long_further_axes(tmp_path):
    """More than one further axis longer than one voxel is refused."""
    assert "(2, 3, 1, 2, 2)" in refusal(make(tmp_path / "a.nii", data=VOXELS.reshape(2, 3, 1, 2, 2)))


@pytest.mark.parametrize(
    ("datatype", "bits"), [(128, 24), (2304, 32), (32, 64), (1792, 128)], ids=["RGB", "RGBA", "complex64", "complex128"]
)
def test_fault_11_voxels_that_are_no_numbers(tmp_path, datatype, bits):
    """Refused, naming the voxel type."""
    data = np.zeros((2, 3, 4, bits // 16), dtype=np.int16)
    path = make(tmp_path / "a.nii", (DATATYPE, "2h", datatype, bits), (DIM, "5h", 3, 2, 3, 4, 1), data=data)
    assert "datatype" in refusal(path)


def test_fault_11_an_unknown_datatype(tmp_path):
    """Refused, naming the code."""
    assert "found: 999" in refusal(make(tmp_path / "a.nii", (DATATYPE, "h", 999)))


def test_fault_12_int64_is_read(tmp_path):
    """Read without loss."""
    array, *_ = read_nifti(make(tmp_path / "a.nii", data=VOXELS.astype(np.int64) * 1000))
    assert np.array_equal(array[0], VOXELS.astype(np.int64) * 1000)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_fault_13_big_endian_is_little_endian(tmp_path, dtype):
    """Both byte orders give the same voxels and affine."""
    data = VOXELS.astype(dtype)
    little, big = (read_volume(make(tmp_path / f"{name}.nii", data=data, endian=end)) for name, end in (("l", "<"), ("b", ">")))
    assert (tmp_path / "l.nii").read_bytes() != (tmp_path / "b.nii").read_bytes()
    assert np.array_equal(little.data, big.data)
    assert np.array_equal(little.affine, big.affine)


def test_fault_14_voxels_that_are_not_finite(tmp_path):
    """Refused, with their number and the position of the first."""
    data = VOXELS.astype(np.float32)
    data[1, 2, 3], data[1, 0, 2], data[1, 1, 1] = np.inf, np.nan, -np.inf
    words = refusal(make(tmp_path / "a.nii", data=data))
    assert "3 NaN or infinite voxels" in words
    assert "(0, 1, 0, 2)" in words


def test_fault_14_a_large_sum_is_no_fault(tmp_path):
    """Large finite values are read."""
    data = np.full((4, 4, 4), 3e38, dtype=np.float32)
    assert np.array_equal(read_volume(make(tmp_path / "a.nii", data=data)).data[0], data)


def test_fault_15_bad_magic(tmp_path):
    """Refused, showing the bytes."""
    assert "nope" in refusal(make(tmp_path / "a.nii", (MAGIC, "4s", b"nope")))


def test_fault_15_a_header_without_voxels(tmp_path):
    """The header of an .hdr/.img pair is refused."""
    assert "magic" in refusal(make(tmp_path / "a.nii", (MAGIC, "4s", b"ni1\0")))


@pytest.mark.parametrize("size", [0, 100, 347, 352, 380])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_fault_16_truncated_before_packing(tmp_path, name, size):
    """Refused, with found and expected bytes."""
    whole = make(tmp_path / "whole.nii").read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(whole[:size]) if name.endswith("gz") else whole[:size])
    assert "bytes" in refusal(path)


def test_fault_16_truncated_gzip(tmp_path):
    """Refused as a broken compressed file."""
    path = make(tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    for size in (5, 40, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "the compressed file is broken" in refusal(path)


def test_fault_17_a_flipped_checksum(tmp_path):
    """Refused: the stream is read to its end, where the checksum is."""
    # incompressible and larger than any read-ahead: the checksum is compared only if the stream is read to its end
    path = make(tmp_path / "a.nii.gz", data=np.random.default_rng(0).integers(0, 2**15, (64, 64, 64), dtype=np.int16))
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    assert "compressed file is broken" in refusal(path)


def test_fault_18_a_plain_file_named_gz_and_the_other_way(tmp_path):
    """Refused; the error says which of the two it is."""
    plain, packed = make(tmp_path / "a.nii"), make(tmp_path / "b.nii.gz")
    content = plain.read_bytes(), packed.read_bytes()
    plain.write_bytes(content[1])
    packed.write_bytes(content[0])
    refusal(plain)
    assert "gzip" in refusal(packed)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_fault_19_sizes_beyond_the_file_allocate_nothing(tmp_path, name):
    """Refused from the header, before anything is allocated."""
    path = make(tmp_path / name, (DIM, "4h", 3, 32767, 32767, 32767))
    words = []
    assert peak_bytes(lambda: words.append(refusal(path))) < 2**20
    assert "32767 x 32767 x 32767" in words[0]


def test_fault_19_a_gzip_bomb_behind_the_voxels_is_not_unpacked(tmp_path):
    """Data after the voxels are refused, not unpacked."""
    path = make(tmp_path / "a.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**27)))
    words = []
    assert peak_bytes(lambda: words.append(refusal(path))) < 2**24
    assert "continues after its voxels" in words[0]


def test_fault_19_an_honest_gzip_bomb_is_not_unpacked(tmp_path):
    """A file that would really unpack to gigabytes of zeros is refused from its header and its size."""
    header = gzip.decompress(make(tmp_path / "a.nii.gz", (DIM, "4h", 3, 1024, 1024, 2048)).read_bytes())[:352]
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header) + gzip.compress(bytes(2**24)) * 2**8)  # gzip members follow each other
    words = []
    assert path.stat().st_size < 2**23
    assert peak_bytes(lambda: words.append(refusal(path))) < 2**20
    assert "far more data than a scan" in words[0]
    assert f"become {2**32 + 352}" in words[0]


def test_fault_19_a_scan_beyond_the_memory_is_refused(tmp_path):
    """A plain file that does not fit into memory, sparse or not, is refused as well."""
    path = make(tmp_path / "a.nii", (DIM, "4h", 3, 32767, 32767, 2000))
    os.truncate(path, 352 + 2 * 32767 * 32767 * 2000)  # 4 TB of holes
    words = []
    assert peak_bytes(lambda: words.append(refusal(path))) < 2**20
    assert "more memory than this machine has" in words[0]


@pytest.mark.parametrize("patch", [(DIM, "h", 0), (DIM, "h", 9), (DIM, "h", -1), (DIM + 2, "h", 0), (DIM + 4, "h", -3)])
def test_fault_20_impossible_sizes(tmp_path, patch):
    """Refused, naming dim."""
    assert "dim" in refusal(make(tmp_path / "a.nii", patch))


def test_fault_20_the_number_of_axes_is_named_as_it_stands(tmp_path):
    """The error shows the value in the file, not nibabel's repaired value."""
    assert "found: 9\n" in refusal(make(tmp_path / "a.nii", (DIM, "h", 9)))


@pytest.mark.parametrize("offset", [1e9, -1.0, np.nan, np.inf])
def test_fault_21_voxels_that_start_elsewhere(tmp_path, offset):
    """Refused, naming vox_offset."""
    words = refusal(make(tmp_path / "a.nii", (VOX_OFFSET, "f", offset)))
    assert "vox_offset" in words
    assert f"found: {offset}" in words


@pytest.mark.parametrize("offset", [0, 100, 347])
def test_fault_21_voxels_never_start_inside_the_header(tmp_path, offset):
    """0 means directly after the header; an offset inside the header is refused."""
    path = make(tmp_path / "a.nii", (VOX_OFFSET, "f", offset))
    try:
        data = read_volume(path).data
    except DataError:
        return
    assert np.array_equal(data[0], VOXELS)
