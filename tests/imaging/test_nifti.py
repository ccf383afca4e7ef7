import contextlib
import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_files import AFFINE, INTER, SLOPE, VOXELS, XYZT, make

from rarecli.core.errors import DataError
from rarecli.core.imaging.nifti import read_geometry
from rarecli.core.imaging.volume import read_volume


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_sound_file_is_read_as_it_is(tmp_path, name):
    volume = read_volume(make(tmp_path / name))
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, VOXELS[None])
    assert np.array_equal(volume.affine, AFFINE)


def test_slope_and_intercept_are_applied(tmp_path):
    volume = read_volume(make(tmp_path / "a.nii", (SLOPE, "f", 0.5), (INTER, "f", 10)))
    assert np.array_equal(volume.data[0], VOXELS * 0.5 + 10)


def test_missing_file_folder_and_foreign_name(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "a.mha").write_bytes(b"x")
    for name in ("none.nii.gz", "folder.nii", "a.mha"):
        with pytest.raises(DataError) as caught:
            read_volume(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_nifti_2_is_read(tmp_path):
    volume = read_volume(make(tmp_path / "a.nii.gz", kind=nib.Nifti2Image))
    assert np.array_equal(volume.data[0], VOXELS)
    assert volume.spacing_mm == (1, 2, 3)


def test_geometry_is_that_of_the_whole_file(tmp_path):
    path = make(tmp_path / "a.nii.gz", data=np.stack([VOXELS] * 2, axis=-1))
    shape, affine = read_geometry(path)
    assert shape == (2, 3, 4, 2)
    assert np.array_equal(affine, read_volume(path).affine)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=3), st.sampled_from(["f.nii", "f.nii.gz"]))
def test_any_mutated_byte_is_read_or_refused(tmp_path, changes, name):
    path = make(tmp_path / name)
    raw = bytearray(path.read_bytes())
    for place, value in changes:
        raw[place % len(raw)] = value
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        read_volume(path)


@pytest.mark.filterwarnings("ignore")
def test_every_header_byte_is_read_or_refused(tmp_path):
    raw = make(tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii"
    crashes = set()
    for place in range(348):
        for value in (0, 127, 255):
            path.write_bytes(raw[:place] + bytes([value]) + raw[place + 1 :])
            try:
                read_volume(path)
            except DataError:
                pass
            except Exception as error:
                crashes.add((place, value, type(error).__name__))
    assert not crashes


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="not a regular file"):
            read_volume(tmp_path / name)


def test_small_voxels_in_metres_are_not_singular(tmp_path):
    """Scans of micro-CT: 20 micron, written in metres."""
    path = make(tmp_path / "a.nii", (XYZT, "B", 1), affine=np.diag([2e-5, 2e-5, 2e-5, 1]))
    assert read_volume(path).spacing_mm == pytest.approx((0.02, 0.02, 0.02))
