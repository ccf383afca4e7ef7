import numpy as np
import pytest

from rarecli import Volume
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.regions import Region, at_least, box_text, boxes_of_parts, grown, read_box, region_of
from rarecli.core.imaging.volume import write_labels


def box(*numbers):
    return tuple(slice(first, last) for first, last in zip(numbers[::2], numbers[1::2], strict=True))


SCAN = Volume(np.zeros((1, 10, 20, 30), dtype=np.float32), np.diag([1.0, 1, 2, 1]))


def test_a_box_is_read_and_written_in_the_same_form():
    assert read_box("1:3,0:20,5:30") == box(1, 3, 0, 20, 5, 30)
    assert box_text(box(1, 3, 0, 20, 5, 30)) == "1:3,0:20,5:30"
    assert read_box("mask.nii.gz") is read_box("1:2,3:4") is read_box("-1:2,0:1,0:1") is None
    with pytest.raises(UsageError, match="empty"):
        read_box("1:3,4:4,0:1")


def test_a_box_beyond_the_scan_is_refused_with_the_scan_beside_it():
    with pytest.raises(DataError, match="not inside") as caught:
        region_of(box(0, 10, 0, 21, 0, 30), SCAN)
    assert "0:10,0:20,0:30" in str(caught.value)


def test_a_mask_gives_its_box_and_keeps_only_its_voxels(tmp_path):
    mask = np.zeros(SCAN.shape, dtype=np.uint8)
    mask[2, 3:5, 7] = 4
    mask[4, 4, 9] = 1
    write_labels(tmp_path / "mask.nii.gz", mask, SCAN)
    region = region_of(tmp_path / "mask.nii.gz", SCAN)
    assert region.box == box(2, 5, 3, 5, 7, 10)
    np.testing.assert_array_equal(region.only(np.full(SCAN.shape, 7)), np.where(mask, 7, 0))
    write_labels(tmp_path / "empty.nii.gz", mask * 0, SCAN)
    with pytest.raises(DataError, match="mask is empty"):
        region_of(tmp_path / "empty.nii.gz", SCAN)
    write_labels(tmp_path / "other.nii.gz", mask[:9], Volume(SCAN.data[:, :9], SCAN.affine))
    with pytest.raises(DataError, match="different grids"):
        region_of(tmp_path / "other.nii.gz", SCAN)


def test_a_box_keeps_only_what_is_inside():
    labels = np.arange(27).reshape(3, 3, 3)
    kept = Region(box(0, 1, 1, 3, 2, 3)).only(labels)
    assert kept[0, 1, 2] == 5
    assert kept[0, 2, 2] == 8
    assert kept.sum() == 13


def test_a_box_grows_as_far_as_the_scan_reaches():
    assert grown(box(1, 3, 5, 6, 0, 30), (2, 2, 2), SCAN.shape) == box(0, 5, 3, 8, 0, 30)
    assert at_least(box(0, 2, 9, 11, 5, 25), (4, 8, 8), SCAN.shape) == box(0, 4, 6, 14, 5, 25)
    assert at_least(box(9, 10, 0, 20, 0, 30), (64, 64, 64), SCAN.shape) == box(0, 10, 0, 20, 0, 30)


def test_every_part_has_its_box_and_overlapping_boxes_are_one():
    labels = np.zeros((40, 10, 10), dtype=np.uint8)
    labels[2:4, 2, 2] = 1
    labels[20, 5, 5] = 2
    labels[23, 5, 5] = 1
    assert sorted(boxes_of_parts(labels, (1, 1, 1)), key=str) == sorted(
        [box(1, 5, 1, 4, 1, 4), box(19, 22, 4, 7, 4, 7), box(22, 25, 4, 7, 4, 7)], key=str
    )
    assert boxes_of_parts(labels, (2, 0, 1))[1:] == [box(18, 26, 5, 6, 4, 7)]
    labels[8, 2, 2] = labels[5:7, 9, 9] = 1  # its box joins two that do not overlap each other
    assert len(boxes_of_parts(labels[:12], (1, 9, 9))) == 1
