import json

import numpy as np
import pytest
from dataset_files import LABELS, VOXELS, msd, nnunet, plain, put, refusal, touch

from rarecli.core.data.case_files import case_name, find_scans, scans_in
from rarecli.core.data.cases import read_case, read_image
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.phantoms import Phantom
from rarecli.core.errors import DataError
from rarecli.core.imaging.volume import Volume, write_image, write_labels


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


def test_another_number_of_channels_than_declared(tmp_path):
    dataset = open_dataset(msd(tmp_path))
    with pytest.raises(DataError, match="number of channels") as caught:
        read_image(dataset.cases[0], 4)
    assert "found: 1\n" in str(caught.value)


@pytest.mark.parametrize("build", [msd, nnunet, plain])
def test_a_case_without_labels_is_refused_when_it_is_read_and_all_without_at_once(tmp_path, build):
    build(tmp_path)
    next(tmp_path.rglob("label*/b.nii.gz")).unlink()
    first, second = open_dataset(tmp_path).cases
    assert (first.labels.name, second.labels) == ("a.nii.gz", None)
    with pytest.raises(DataError, match="the case has no labels") as caught:
        read_case(second, (0, 1))
    assert "case: b" in str(caught.value)
    assert "remedy: add it, or remove the scan" in str(caught.value)
    next(tmp_path.rglob("label*/a.nii.gz")).unlink()
    assert "no scan has labels" in (words := refusal(tmp_path))
    assert "such as a.nii.gz" in words


def test_a_missing_image_names_the_case(tmp_path):
    msd(tmp_path)
    (tmp_path / "imagesTr" / "b.nii.gz").unlink()
    assert "case: b" in refusal(tmp_path)


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
    with pytest.raises(DataError, match="no scans in this folder"):
        scans_in(tmp_path)


def test_folders_that_hold_the_scans_are_named(tmp_path):
    touch(tmp_path / "masks" / "a.nii.gz", tmp_path / "scans" / "a.nii.gz", tmp_path / "notes" / "a.txt")
    with pytest.raises(DataError, match="no scans in this folder") as caught:
        find_scans([tmp_path])
    assert "found: files in its folders: masks, scans\n" in str(caught.value)
    assert f"remedy: give the one that holds the scans: {tmp_path / 'masks'} or {tmp_path / 'scans'}" in str(caught.value)


def test_folders_of_other_names_can_be_linked(tmp_path):
    plain(tmp_path / "set")
    (tmp_path / "set" / "images").rename(tmp_path / "set" / "scans")
    (tmp_path / "set" / "labels").rename(tmp_path / "set" / "masks")
    assert "found: masks, scans" in (words := refusal(tmp_path / "set"))
    assert "or link them: ln -s SCANS images" in words
    (tmp_path / "set" / "images").symlink_to("scans")
    (tmp_path / "set" / "labels").symlink_to("masks")
    assert [case.name for case in open_dataset(tmp_path / "set").cases] == ["a", "b"]


def test_files_and_folders_together(tmp_path):
    touch(tmp_path / "folder" / "a.nii", tmp_path / "b.nii.gz")
    assert [case.name for case in find_scans([tmp_path / "folder", tmp_path / "b.nii.gz"])] == ["a", "b"]


def test_one_name_from_two_places_is_refused(tmp_path):
    touch(tmp_path / "one" / "a.nii", tmp_path / "two" / "a.nii")
    for inputs in ([tmp_path / "one", tmp_path / "two"], [tmp_path / "one" / "a.nii", tmp_path / "two" / "a.nii"]):
        with pytest.raises(DataError, match="the same name"):
            find_scans(inputs)


def test_missing_and_foreign_inputs_are_refused(tmp_path):
    touch(tmp_path / "a.png")
    for name, words in (("a.png", "not a scan"), ("none.nii", "no such file")):
        with pytest.raises(DataError, match=words) as caught:
            find_scans([tmp_path / name])
        assert name in str(caught.value)


def test_case_names(tmp_path):
    assert [case_name(tmp_path / name) for name in ("a.nii.gz", "a.nii", "a.b.nii.gz", "a.txt")] == ["a", "a", "a.b", "a.txt"]


@pytest.mark.parametrize(
    ("make", "labels"), [(nnunet, {"background": 0, "organ": 1, "ignore": 2}), (msd, {"0": "background", "1": "Ignore"})]
)
def test_an_ignore_label_is_the_value_of_voxels_without_annotation(make, labels, tmp_path):
    value = 2 if make is nnunet else 1
    dataset = open_dataset(make(tmp_path / "data", labels=labels))
    assert "ignore" not in {name.casefold() for name in dataset.label_names.values()}
    assert {dataset.ignored_value, *(case.ignored_value for case in dataset.cases)} == {value}


def test_keys_that_only_nnunet_needs_are_no_error(tmp_path):
    more = {"overwrite_image_reader_writer": "SimpleITKIO", "licence": "CC", "regions_class_order": [1], "converted_by": {"x": [1]}}
    assert len(open_dataset(nnunet(tmp_path / "data", **more)).cases) == 2


def test_nnunet_v1_says_case_and_has_a_file_per_channel(tmp_path):
    """dataset.json as in MSD, files as in nnU-Net: dataset.json lists CASE.nii.gz; the files are CASE_0000.nii.gz and CASE_0001.nii.gz."""
    root = msd(tmp_path / "data", modality={"0": "T1", "1": "T2"})
    for name in ("a", "b"):
        (root / "imagesTr" / f"{name}.nii.gz").unlink()
        for channel in range(2):
            put(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", VOXELS + 1000 * channel)
    cases = open_dataset(root).cases
    assert [(case.name, [file.name for file in case.images]) for case in cases] == [
        (name, [f"{name}_0000.nii.gz", f"{name}_0001.nii.gz"]) for name in ("a", "b")
    ]
    assert read_image(cases[0], 2).num_channels == 2


def test_patients_that_are_called_like_channels_are_scans_of_a_model_with_one_channel(tmp_path):
    touch(*(tmp_path / f"scan_{number:04d}.nii.gz" for number in range(4)))
    assert [case.name for case in find_scans([tmp_path], 1)] == [f"scan_{number:04d}" for number in range(4)]
    (case,) = find_scans([tmp_path], 4)
    assert (case.name, len(case.images)) == ("scan", 4)


def test_a_file_without_digits_does_not_rename_the_others(tmp_path):
    touch(*(tmp_path / f"{name}_0000.nii.gz" for name in "ab"), tmp_path / "c.nii.gz")
    assert sorted(case.name for case in find_scans([tmp_path], 1)) == ["a", "b", "c"]


@pytest.mark.parametrize("labels", [{"background": "0", "organ": "1"}, {"0": "background", "1": "organ"}, {"background": 0, "organ": 1}])
def test_labels_of_nnunet_however_they_are_written(labels, tmp_path):
    assert open_dataset(nnunet(tmp_path / "data", labels=labels)).label_names == {0: "background", 1: "organ"}


@pytest.mark.parametrize("make", [nnunet, msd])
@pytest.mark.parametrize(("twice", "values"), [("organ", (1, 4)), ("background", (0, 4))])
def test_two_labels_of_one_name_are_refused(make, twice, values, tmp_path):
    labels = {"0": "background", "1": "organ", "2": "Organ", "4": twice}  # a capital letter makes another name
    told = refusal(make(tmp_path / "data", labels=labels))
    assert "two labels have the same name" in told
    assert f"found: {twice} for the values {values[0]} and {values[1]}" in told


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "tumour": [1, "2"]},
        {"background": 0, "organ": None},
        ["a"],
        {"background": "zero"},
        {"background": 0, "organ": 1.5},
    ],
)
def test_labels_that_are_none_are_refused_with_what_is_expected(labels, tmp_path):
    assert 'expected: {"background": 0' in refusal(nnunet(tmp_path / "data", labels=labels))


def test_another_file_ending_is_named(tmp_path):
    words = refusal(nnunet(tmp_path / "data", file_ending=".png"))
    assert "field: file_ending" in words
    assert "found: .png" in words


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mgz", ".nii"])
def test_a_dataset_may_be_in_any_format(ending, tmp_path):
    """nnU-Net declares the ending of its files; images and labels of a case are read alike."""
    image, labels = Phantom(0, (16.0, 16.0, 16.0)).acquire(2.0, "LPS")
    for name, data in ((f"imagesTr/a_0000{ending}", image.data[0]), (f"labelsTr/a{ending}", labels.data[0])):
        (write_image if name.startswith("im") else write_labels)(tmp_path / name, data, Volume(image.data, image.affine))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1, "two": 2}, "numTraining": 1, "file_ending": ending}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (case,) = open_dataset(tmp_path).cases
    scan, mask = read_case(case, (0, 1, 2), 1)
    np.testing.assert_array_equal(scan.data, image.data.astype(np.float32))
    np.testing.assert_array_equal(mask.data, labels.data)
