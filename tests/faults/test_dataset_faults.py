"""Faults 23 to 32, in datasets, their labels and descriptions."""

import os

import numpy as np
import pytest
from dataset_files import LABELS, SHAPE, msd, nnunet, plain, put, refusal

from rarecli.core.data.cases import class_indices, read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.errors import DataError


def test_fault_23_undeclared_values_are_listed_with_their_counts(tmp_path):
    """Refused, with every undeclared value and its number of voxels."""
    labels = LABELS.copy()
    labels[0, 0, :3], labels[1, 1, 1] = 7, 200
    dataset = open_dataset(msd(tmp_path, voxels=labels))
    with pytest.raises(DataError) as caught:
        read_case(dataset.cases[0], (0, 1))
    words = str(caught.value)
    assert "7 (3 voxels), 200 (1 voxels)" in words
    assert "expected: 0, 1" in words
    assert "case: a" in words
    assert "labelsTr/a.nii.gz" in words


def test_fault_23_an_undeclared_value_between_declared_ones():
    """Undeclared values between declared ones are refused."""
    with pytest.raises(DataError, match="undeclared") as caught:
        class_indices(np.array([0, 2, 1, 1]), (0, 2))
    assert "1 (2 voxels)" in str(caught.value)


def test_fault_23_a_negative_value_is_undeclared():
    """Undeclared values below the declared ones are refused."""
    with pytest.raises(DataError) as caught:
        class_indices(np.array([0, -1, 1]), (0, 1))
    assert "-1 (1 voxels)" in str(caught.value)


def test_fault_23_declared_values_with_gaps_are_mapped(tmp_path):
    """Values with gaps become class indices, and predictions have the original values."""
    values = np.array([0, 4, 9, 250], dtype=np.uint8)
    index = np.arange(120).reshape(SHAPE) % 4
    names = {"0": "background", "250": "c", "9": "b", "4": "a"}
    dataset = open_dataset(msd(tmp_path, voxels=values[index], labels=names))
    assert dataset.label_names == {0: "background", 4: "a", 9: "b", 250: "c"}
    _, labels = read_case(dataset.cases[0], tuple(sorted(dataset.label_names)))
    assert labels.data.dtype == np.uint8
    assert np.array_equal(labels.data[0], index)


def test_fault_25_empty_labels_are_class_0():
    """Read as background everywhere."""
    assert class_indices(np.zeros(3, dtype=np.int32), (0, 5)).tolist() == [0, 0, 0]
    assert class_indices(np.full(3, 5, dtype=np.int32), (0, 5)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("change", ["shape", "origin", "orientation"])
def test_fault_24_labels_on_another_grid(tmp_path, change):
    """Refused, naming both grids."""
    msd(tmp_path, names=("a",))
    affine = np.diag([1.0, 2, 3, 1])
    data = LABELS
    if change == "shape":
        data = LABELS[:, :, 1:]
    elif change == "origin":
        affine[0, 3] = 0.5
    else:
        affine[0] = -affine[0]
    put(tmp_path / "labelsTr" / "a.nii.gz", np.ascontiguousarray(data), affine)
    with pytest.raises(DataError) as caught:
        read_case(open_dataset(tmp_path).cases[0], (0, 1))
    words = str(caught.value)
    assert "different grids" in words
    assert "case: a" in words
    assert "labelsTr/a.nii.gz" in words
    assert "4 x 5 x 6 voxels of 1 x 2 x 3 mm, RAS" in words


def test_fault_29_a_missing_channel_is_named(tmp_path):
    """Refused, naming the case and the file that should be there."""
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "b_0000.nii.gz").unlink()
    words = refusal(tmp_path)
    assert "case: b" in words
    assert "b_0000.nii.gz" in words
    put(tmp_path / "imagesTr" / "b_0000.nii.gz")
    (tmp_path / "imagesTr" / "b_0001.nii.gz").unlink()
    words = refusal(tmp_path)
    assert "case: b" in words
    assert "b_0001.nii.gz (T2)" in words


def test_fault_29_a_channel_too_many(tmp_path):
    """Refused, naming the case and the files."""
    nnunet(tmp_path)
    put(tmp_path / "imagesTr" / "b_0002.nii.gz")
    words = refusal(tmp_path)
    assert "case: b" in words
    assert "b_0002.nii.gz" in words


def test_fault_29_a_doubled_channel_is_named(tmp_path):
    """Refused, naming both files."""
    nnunet(tmp_path)
    put(tmp_path / "imagesTr" / "b_0001.nii")
    words = refusal(tmp_path)
    assert "twice" in words
    assert "b_0001.nii" in words


def test_fault_29_a_forgotten_channel_number_is_named(tmp_path):
    """Refused, naming the file."""
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "b_0000.nii.gz").rename(tmp_path / "imagesTr" / "b.nii.gz")
    words = refusal(tmp_path)
    assert "b.nii.gz" in words
    assert "a_0000" not in words


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"name": "x"}', '{"training": [], "modality": {"0": "MR"}, "labels": {"0": "b"}}'])
def test_fault_30_a_broken_description(tmp_path, content):
    """Refused, naming dataset.json."""
    (tmp_path / "dataset.json").write_text(content)
    assert "dataset.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"training": "a"},
        {"training": [{"image": "a.nii"}]},
        {"training": ["./imagesTr/a.nii.gz"]},
        {"training": [{"image": 1, "label": 2}]},
        {"training": [{"image": "a\0.nii", "label": "b.nii"}]},
        {"modality": ["MR"]},
        {"modality": {"zero": "MR"}},
        {"labels": None},
        {"labels": {"one": "organ"}},
    ],
    ids=str,
)
def test_fault_30_a_description_of_the_wrong_form(tmp_path, change):
    """Refused, naming dataset.json and the key."""
    assert "dataset.json" in refusal(msd(tmp_path, **({"numTraining": None} | change)))


@pytest.mark.parametrize(
    "change", [{"channel_names": ["T1", "T2"]}, {"labels": {"background": 0, "rim": [1, "2"]}}, {"labels": None}], ids=str
)
def test_fault_30_an_nnunet_description_of_the_wrong_form(tmp_path, change):
    """Refused in nnU-Net's layout as well."""
    assert "dataset.json" in refusal(nnunet(tmp_path, **change))


def test_fault_30_two_labels_of_one_value(tmp_path):
    """Two labels with the same value are refused."""
    assert "labels" in refusal(nnunet(tmp_path, labels={"background": 0, "liver": 1, "tumour": 1}))


@pytest.mark.parametrize("build", [msd, nnunet])
def test_fault_30_another_number_of_cases_than_declared(tmp_path, build):
    """Refused, with both numbers."""
    words = refusal(build(tmp_path, numTraining=3))
    assert "numTraining" in words
    assert "found: 3" in words
    assert "expected: 2" in words


def test_fault_30_duplicate_cases(tmp_path):
    """Refused, naming the case."""
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    words = refusal(msd(tmp_path, training=[entry, entry]))
    assert "case: a" in words
    assert "the same name" in words


def test_fault_30_one_name_in_two_forms(tmp_path):
    """A case that exists as both .nii and .nii.gz is refused."""
    plain(tmp_path)
    put(tmp_path / "images" / "a.nii")
    assert "case: a" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a b", "Fall-ü 日本", "-rf", "--output", "a.b.c", "a'b\"c", "CON%s"])
@pytest.mark.parametrize("build", [msd, nnunet, plain])
def test_fault_31_unusual_names(tmp_path, build, name):
    """Read like any other name."""
    dataset = open_dataset(build(tmp_path / "a set", names=("z", name)))
    assert {case.name for case in dataset.cases} == {"z", name}
    case = next(case for case in dataset.cases if case.name == name)
    assert read_case(case, (0, 1))[0].shape == SHAPE


def test_fault_32_paths_out_of_the_folder_are_refused_before_opening(tmp_path):
    """Refused before opening, so even a pipe does not block."""
    root = tmp_path / "set"
    outside = put(tmp_path / "outside.nii.gz")
    os.mkfifo(tmp_path / "trap.nii.gz")  # opening it would hang
    for escape in ("../outside.nii.gz", "imagesTr/../../outside.nii.gz", str(outside), "../trap.nii.gz"):
        for entry in ({"image": escape, "label": "labelsTr/a.nii.gz"}, {"image": "imagesTr/a.nii.gz", "label": escape}):
            words = refusal(msd(root, names=("a",), training=[entry]))
            assert "leaves the dataset's folder" in words
            assert f"found: {escape}" in words


def test_fault_32_an_absolute_path_inside_is_refused_too(tmp_path):
    """Absolute paths are refused wherever they lead."""
    entry = {"image": str(tmp_path / "imagesTr" / "a.nii.gz"), "label": "labelsTr/a.nii.gz"}
    assert "relative path" in refusal(msd(tmp_path, names=("a",), training=[entry]))


def test_fault_32_a_link_out_of_the_folder_is_followed(tmp_path):
    """Paths are judged by their text. Links may lead out of the folder, because caches store every file as a link."""
    root = msd(tmp_path / "set", names=("a",))
    outside = put(tmp_path / "outside.nii.gz")
    (root / "imagesTr" / "a.nii.gz").unlink()
    (root / "imagesTr" / "a.nii.gz").symlink_to(outside)
    assert [case.name for case in open_dataset(root).cases] == ["a"]


def test_fault_32_a_root_that_is_a_symlink_is_fine(tmp_path):
    """The dataset's folder itself may be a link."""
    msd(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(open_dataset(tmp_path / "link").cases) == 2
