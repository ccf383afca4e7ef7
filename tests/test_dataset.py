import json
import os

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.dataset import case_name, class_indices, find_scans, open_dataset, read_case, read_image, scans_in
from rarecli.core.errors import DataError

SHAPE = (4, 5, 6)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)
LABELS = (VOXELS > 60).astype(np.uint8)


def put(path, data=VOXELS, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 2, 3, 1]) if affine is None else affine), path)
    return path


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def describe(root, **content):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def msd(root, names=("a", "b"), voxels=LABELS, **changes):
    for name in names:
        put(root / "imagesTr" / f"{name}.nii.gz")
        put(root / "labelsTr" / f"{name}.nii.gz", voxels)
    describe(
        root,
        **{
            "name": "Test",
            "modality": {"0": "MR"},
            "labels": {"0": "background", "1": "organ"},
            "numTraining": len(names),
            "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        }
        | changes,
    )
    return root


def nnunet(root, names=("a", "b"), **changes):
    for name in names:
        for channel in range(2):
            put(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", VOXELS + 1000 * channel)
        put(root / "labelsTr" / f"{name}.nii.gz", LABELS)
    describe(
        root,
        **{
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "organ": 1},
            "numTraining": len(names),
            "file_ending": ".nii.gz",
        }
        | changes,
    )
    return root


def plain(root, names=("a", "b")):
    for name in names:
        put(root / "images" / f"{name}.nii.gz")
        put(root / "labels" / f"{name}.nii.gz", LABELS)
    return root


def refusal(root):
    with pytest.raises(DataError) as caught:
        open_dataset(root)
    return str(caught.value)


# ---- layouts


def test_msd(tmp_path):
    dataset = open_dataset(msd(tmp_path / "set"))
    assert (dataset.layout, dataset.name, dataset.channel_names) == ("MSD", "Test", ("MR",))
    assert dataset.label_names == {0: "background", 1: "organ"}
    assert [case.name for case in dataset.cases] == ["a", "b"]
    image, labels = read_case(dataset.cases[1], (0, 1), 1)
    assert np.array_equal(image.data[0], VOXELS)
    assert np.array_equal(labels.data[0], LABELS)
    assert image.spacing_mm == labels.spacing_mm == (1, 2, 3)


def test_msd_channels_come_in_the_order_of_their_numbers(tmp_path):
    channels = {str(number): f"channel {number}" for number in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert open_dataset(msd(tmp_path, modality=channels)).channel_names == tuple(f"channel {n}" for n in range(11))


def test_nnunet_raw_with_two_channels(tmp_path):
    dataset = open_dataset(nnunet(tmp_path / "Dataset001_Test"))
    assert (dataset.layout, dataset.name, dataset.channel_names) == ("nnU-Net raw", "Dataset001_Test", ("T1", "T2"))
    assert dataset.label_names == {0: "background", 1: "organ"}
    assert [case.name for case in dataset.cases] == ["a", "b"]
    image, labels = read_case(dataset.cases[0], (0, 1), 2)
    assert np.array_equal(image.data, [VOXELS, VOXELS + 1000])
    assert np.array_equal(labels.data[0], LABELS)


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_plain_folders(tmp_path, folders):
    plain(tmp_path / "set")
    for old, new in zip(("images", "labels"), folders, strict=True):
        (tmp_path / "set" / old).rename(tmp_path / "set" / new)
    dataset = open_dataset(tmp_path / "set")
    assert (dataset.layout, dataset.name, dataset.channel_names, dataset.label_names) == ("plain", "set", None, None)
    assert [(case.name, case.labels.name) for case in dataset.cases] == [("a", "a.nii.gz"), ("b", "b.nii.gz")]


def test_plain_folders_with_a_file_per_channel(tmp_path):
    touch(*[tmp_path / "images" / f"{case}_{channel:04d}.nii" for case in "xy" for channel in range(3)])
    touch(*[tmp_path / "labels" / f"{case}.nii.gz" for case in "xy"])
    assert [(case.name, len(case.images)) for case in open_dataset(tmp_path).cases] == [("x", 3), ("y", 3)]


def test_no_known_layout_says_what_lies_there(tmp_path):
    touch(tmp_path / "photo.jpg")
    assert "photo.jpg" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "none")


# ---- fault 23, 24: labels


def test_fault_23_undeclared_values_are_listed_with_their_counts(tmp_path):
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
    with pytest.raises(DataError, match="not declared") as caught:
        class_indices(np.array([0, 2, 1, 1]), (0, 2))
    assert "1 (2 voxels)" in str(caught.value)


def test_fault_23_a_negative_value_is_undeclared():
    with pytest.raises(DataError) as caught:
        class_indices(np.array([0, -1, 1]), (0, 1))
    assert "-1 (1 voxels)" in str(caught.value)


def test_fault_23_declared_values_with_gaps_are_mapped(tmp_path):
    values = np.array([0, 4, 9, 250], dtype=np.uint8)
    index = np.arange(120).reshape(SHAPE) % 4
    names = {"0": "background", "250": "c", "9": "b", "4": "a"}
    dataset = open_dataset(msd(tmp_path, voxels=values[index], labels=names))
    assert dataset.label_names == {0: "background", 4: "a", 9: "b", 250: "c"}
    _, labels = read_case(dataset.cases[0], tuple(sorted(dataset.label_names)))
    assert labels.data.dtype == np.uint8
    assert np.array_equal(labels.data[0], index)


def test_fault_25_empty_labels_are_class_0():
    assert class_indices(np.zeros(3, dtype=np.int32), (0, 5)).tolist() == [0, 0, 0]
    assert class_indices(np.full(3, 5, dtype=np.int32), (0, 5)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("change", ["shape", "origin", "orientation"])
def test_fault_24_labels_on_another_grid(tmp_path, change):
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


def test_another_number_of_channels_than_declared(tmp_path):
    dataset = open_dataset(msd(tmp_path))
    with pytest.raises(DataError, match="number of channels") as caught:
        read_image(dataset.cases[0], 4)
    assert "found: 1\n" in str(caught.value)


# ---- faults 29-32: files and descriptions


@pytest.mark.parametrize("build", [msd, nnunet, plain])
def test_missing_labels_name_the_case(tmp_path, build):
    build(tmp_path)
    next(tmp_path.rglob("label*/b.nii.gz")).unlink()
    words = refusal(tmp_path)
    assert "case: b" in words
    assert "b.nii.gz" in words


def test_a_missing_image_names_the_case(tmp_path):
    msd(tmp_path)
    (tmp_path / "imagesTr" / "b.nii.gz").unlink()
    assert "case: b" in refusal(tmp_path)


def test_fault_29_a_missing_channel_is_named(tmp_path):
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
    nnunet(tmp_path)
    put(tmp_path / "imagesTr" / "b_0002.nii.gz")
    words = refusal(tmp_path)
    assert "case: b" in words
    assert "b_0002.nii.gz" in words


def test_fault_29_a_doubled_channel_is_named(tmp_path):
    nnunet(tmp_path)
    put(tmp_path / "imagesTr" / "b_0001.nii")
    words = refusal(tmp_path)
    assert "twice" in words
    assert "b_0001.nii" in words


def test_fault_29_a_forgotten_channel_number_is_named(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "b_0000.nii.gz").rename(tmp_path / "imagesTr" / "b.nii.gz")
    words = refusal(tmp_path)
    assert "b.nii.gz" in words
    assert "a_0000" not in words


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"name": "x"}', '{"training": [], "modality": {"0": "MR"}, "labels": {"0": "b"}}'])
def test_fault_30_a_broken_description(tmp_path, content):
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
    assert "dataset.json" in refusal(msd(tmp_path, **({"numTraining": None} | change)))


@pytest.mark.parametrize(
    "change", [{"channel_names": ["T1", "T2"]}, {"labels": {"background": 0, "rim": [1, 2]}}, {"labels": None}], ids=str
)
def test_fault_30_an_nnunet_description_of_the_wrong_form(tmp_path, change):
    assert "dataset.json" in refusal(nnunet(tmp_path, **change))


def test_fault_30_two_labels_of_one_value(tmp_path):
    assert "labels" in refusal(nnunet(tmp_path, labels={"background": 0, "liver": 1, "tumour": 1}))


@pytest.mark.parametrize("build", [msd, nnunet])
def test_fault_30_another_number_of_cases_than_declared(tmp_path, build):
    words = refusal(build(tmp_path, numTraining=3))
    assert "numTraining" in words
    assert "found: 3" in words
    assert "expected: 2" in words


def test_fault_30_duplicate_cases(tmp_path):
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    words = refusal(msd(tmp_path, training=[entry, entry]))
    assert "case: a" in words
    assert "one name" in words


def test_fault_30_one_name_in_two_forms(tmp_path):
    plain(tmp_path)
    put(tmp_path / "images" / "a.nii")
    assert "case: a" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a b", "Fall-ü 日本", "-rf", "--output", "a.b.c", "a'b\"c", "CON%s"])
@pytest.mark.parametrize("build", [msd, nnunet, plain])
def test_fault_31_unusual_names(tmp_path, build, name):
    dataset = open_dataset(build(tmp_path / "a set", names=("z", name)))
    assert {case.name for case in dataset.cases} == {"z", name}
    case = next(case for case in dataset.cases if case.name == name)
    assert read_case(case, (0, 1))[0].shape == SHAPE


def test_fault_32_paths_out_of_the_folder_are_refused_before_opening(tmp_path):
    root = tmp_path / "set"
    outside = put(tmp_path / "outside.nii.gz")
    os.mkfifo(tmp_path / "trap.nii.gz")  # opening it would hang
    for escape in ("../outside.nii.gz", "imagesTr/../../outside.nii.gz", str(outside), "../trap.nii.gz"):
        for entry in ({"image": escape, "label": "labelsTr/a.nii.gz"}, {"image": "imagesTr/a.nii.gz", "label": escape}):
            words = refusal(msd(root, names=("a",), training=[entry]))
            assert "leaves the dataset's folder" in words
            assert f"found: {escape}" in words


def test_fault_32_an_absolute_path_inside_is_refused_too(tmp_path):
    entry = {"image": str(tmp_path / "imagesTr" / "a.nii.gz"), "label": "labelsTr/a.nii.gz"}
    assert "relative path" in refusal(msd(tmp_path, names=("a",), training=[entry]))


def test_fault_32_a_symlink_out_of_the_folder_is_refused(tmp_path):
    root = msd(tmp_path / "set", names=("a",))
    outside = put(tmp_path / "outside.nii.gz")
    (root / "imagesTr" / "a.nii.gz").unlink()
    (root / "imagesTr" / "a.nii.gz").symlink_to(outside)
    assert "leaves the dataset's folder" in refusal(root)


def test_fault_32_a_root_that_is_a_symlink_is_fine(tmp_path):
    msd(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(open_dataset(tmp_path / "link").cases) == 2


# ---- scans for prediction


def test_numbers_in_names_are_no_channels_without_a_0000(tmp_path):
    touch(*[tmp_path / f"case_{number}.nii.gz" for number in range(1000, 1004)])
    assert [(case.name, len(case.images)) for case in scans_in(tmp_path)] == [(f"case_{n}", 1) for n in range(1000, 1004)]


def test_files_0000_and_on_are_channels_of_one_scan(tmp_path):
    touch(*[tmp_path / f"case_{number:04d}.nii.gz" for number in (2, 0, 1)])
    (case,) = scans_in(tmp_path)
    assert case.name == "case"
    assert [file.name for file in case.images] == [f"case_{n:04d}.nii.gz" for n in range(3)]


def test_other_and_hidden_files_are_passed_over(tmp_path):
    touch(tmp_path / "a.nii.gz", tmp_path / "._a.nii.gz", tmp_path / "notes.txt", tmp_path / "sub" / "b.nii")
    assert [case.name for case in scans_in(tmp_path)] == ["a"]


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(DataError, match="no scans here"):
        scans_in(tmp_path)


def test_files_and_folders_together(tmp_path):
    touch(tmp_path / "folder" / "a.nii", tmp_path / "b.nii.gz")
    assert [case.name for case in find_scans([tmp_path / "folder", tmp_path / "b.nii.gz"])] == ["a", "b"]


def test_one_name_from_two_places_is_refused(tmp_path):
    touch(tmp_path / "one" / "a.nii", tmp_path / "two" / "a.nii")
    for inputs in ([tmp_path / "one", tmp_path / "two"], [tmp_path / "one" / "a.nii", tmp_path / "two" / "a.nii"]):
        with pytest.raises(DataError, match="one name"):
            find_scans(inputs)


def test_missing_and_foreign_inputs_are_refused(tmp_path):
    touch(tmp_path / "a.png")
    for name, words in (("a.png", "not a scan"), ("none.nii", "no such file")):
        with pytest.raises(DataError, match=words) as caught:
            find_scans([tmp_path / name])
        assert name in str(caught.value)


def test_case_names(tmp_path):
    assert [case_name(tmp_path / name) for name in ("a.nii.gz", "a.nii", "a.b.nii.gz", "a.txt")] == ["a", "a", "a.b", "a.txt"]
