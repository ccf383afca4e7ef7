"""What `rare info DATASET` finds, in datasets whose numbers are known."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dataset_files import LABELS, VOXELS, describe, msd, plain, put

from rarecli.commands import info as info_command
from rarecli.commands import preprocess as preprocess_command
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.oddities import oddities, outliers, stray_labels
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.data.survey import survey
from rarecli.core.errors import SomeCasesFailed
from rarecli.core.info.info import info
from rarecli.core.jobs.progress import Silent

RNG = np.random.default_rng(0)
SHAPE = (10, 12, 14)


def write_cases(root, spacings, voxels=None):
    """Write cases a, b, c ...: noise around 100, a label of 20 voxels."""
    names = [chr(ord("a") + index) for index in range(len(spacings))]
    msd(root, names)
    for name, spacing in zip(names, spacings, strict=True):
        labels = np.zeros(SHAPE, np.uint8)
        labels.flat[:20] = 1
        put(root / "imagesTr" / f"{name}.nii.gz", RNG.normal(100, 1, SHAPE).astype(np.float32), np.diag([*spacing, 1]))
        put(root / "labelsTr" / f"{name}.nii.gz", labels, np.diag([*spacing, 1]))
    return root


def odd(root):
    return oddities(survey(open_dataset(root), Silent()))


def test_the_facts_of_a_dataset(tmp_path):
    facts = info(write_cases(tmp_path, [(1, 1, 1), (1, 1, 1), (2, 2, 2)]))
    assert facts["spacing"] == ["x: 1 (1 to 2) mm", "y: 1 (1 to 2) mm", "z: 1 (1 to 2) mm"]
    assert facts["size"] == ["x: 10 voxels", "y: 12 voxels", "z: 14 voxels"]
    assert facts["field of view"][0] == "x: 10 (10 to 20) mm"
    assert facts["label volumes"] == ["organ: 0.02 mL (0.02 mL to 0.16 mL), in 3 of 3 cases"]  # 20 voxels of 1 and of 8 mm3
    assert facts["routes"][:2] == [
        "depth 0 (grid 1 x 1 x 1 mm), 2 cases, 0 resampled: a, b",
        "depth 1 (grid 2 x 2 x 2 mm), 1 case, 0 resampled: c",
    ]
    assert facts["per_case"]["c"] == "10 x 12 x 14 voxels of 2 x 2 x 2 mm, RAS, depth 1; organ 0.16 mL"
    assert facts["intensities"][0].startswith("MR: 0.5th percentile 97.")


def test_a_model_routes_the_cases_by_its_own_rule(tmp_path):
    routes = info(write_cases(tmp_path, [(1, 1, 4)] * 2), Path("hippocampus"))["routes"]
    assert routes == ["entry 0,0,2 (grid 1 x 1 x 4 mm), 2 cases, 0 resampled", "by the rule of hippocampus"]


def test_axes_are_those_of_the_patient(tmp_path):
    msd(tmp_path, ["a"])
    turned = np.array([[0, 0, 3.0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])  # array axes point anterior, superior, right
    for folder in ("imagesTr", "labelsTr"):
        voxels = np.asarray(nib.load(tmp_path / folder / "a.nii.gz").dataobj)
        put(tmp_path / folder / "a.nii.gz", voxels, turned)
    facts = info(tmp_path)
    assert facts["spacing"] == ["x: 3 mm", "y: 1 mm", "z: 2 mm"]
    assert facts["size"] == ["x: 6 voxels", "y: 4 voxels", "z: 5 voxels"]


def test_a_plain_dataset_has_the_labels_that_occur(tmp_path):
    facts = info(plain(tmp_path))
    assert facts["label volumes"] == ["class 1: 0.354 mL, in 2 of 2 cases"]  # 59 voxels of 6 mm3


def test_nothing_is_odd_about_ordinary_cases(tmp_path):
    assert odd(write_cases(tmp_path, [(1, 1, 1)] * 5)) == []


def test_every_oddity_is_named(tmp_path):
    root = write_cases(tmp_path, [(1, 1, 1)] * 7 + [(1, 1, 5)])
    images, labels = root / "imagesTr", root / "labelsTr"
    (images / "a.nii.gz").write_bytes(b"broken")
    (images / "b.nii.gz").write_bytes((images / "c.nii.gz").read_bytes())
    put(labels / "d.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4))
    put(images / "e.nii.gz", np.full(SHAPE, 100.0, np.float32), np.eye(4))
    put(images / "f.nii.gz", RNG.normal(5000, 1, SHAPE).astype(np.float32), np.eye(4))
    description = json.loads((root / "dataset.json").read_text())
    describe(root, **description | {"labels": {"0": "background", "1": "organ", "2": "vessel"}})
    found = odd(root)
    for number, start in enumerate(
        [
            "a cannot be used: ",
            "the same scan under several names: b, c",
            "no label above 0 in d",
            "label 2 vessel is in no case",
            "MR is constant in e",
            "spacing along z: 1 case far from the median of 1 mm: h (5 mm)",
            "field of view along z: 1 case far from the median of 14 mm: h (70 mm)",
            "99.5th percentile of MR: 1 case far from the median of 102",
            "volume of organ: 1 case far from the median of 0.02 mL: h (0.1 mL)",
        ]
    ):
        assert found[number].startswith(start), found[number]
    assert len(found) == 9


def test_undeclared_labels_are_odd_and_the_others_are_described(tmp_path):
    root = write_cases(tmp_path, [(1, 1, 1)] * 3)
    put(root / "labelsTr" / "b.nii.gz", np.full(SHAPE, 9, np.uint8), np.eye(4))
    facts = info(root)
    assert facts["odd"][0].startswith("b cannot be used: ")
    assert "undeclared" in facts["odd"][0]
    assert sorted(facts["per_case"]) == ["a", "c"]


IMAGE = range(145)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{0, 1}, {0, 1}, {0, 1}], []),
        ([{0, 1}, {0, 2}], []),  # two do not say which is odd
        ([{0, 1, 2}, {0, 1}, {0, 2}, {0}], []),  # value 0 alone is in every file
        ([{0, 1}, {0, 1, 3, 7}, {0, 1}], ["label 3, 7 is only in 1, of 3 cases"]),
        (
            [{0, 1}, IMAGE, {0, 1, 3}],
            ["the labels of 1 look like an image: they have 145 values, those of most cases 3", "label 3 is only in 2"],
        ),
        ([{0, 1}, IMAGE, IMAGE, {0, 1}, {0, 1}], ["the labels of 1 look", "the labels of 2 look"]),
        ([range(100), range(104), range(98)], ["label 100, 101, 102, 103 is only in 1"]),  # many structures are no image
    ],
)
def test_stray_labels(values, expected):
    found = stray_labels({str(index): of for index, of in enumerate(values)})
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


def test_undeclared_labels_that_look_like_mistakes_are_named_by_info_and_preprocess(tmp_path, capsys):
    root = plain(tmp_path / "data", "abcde")
    put(root / "labels" / "b.nii.gz", np.where(VOXELS > 117, 3, LABELS).astype(np.uint8))
    put(root / "labels" / "d.nii.gz", VOXELS)
    stray = ["the labels of d look like an image: they have 120 values, those of most cases 2", "label 3 is only in b, of 5 cases"]
    info_command.run(root)
    printed = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("odd").strip() for line in printed if line.endswith(tuple(stray))] == stray
    volumes = next(index for index, line in enumerate(printed) if line.startswith("label volumes"))
    assert "class 1: " in printed[volumes]
    assert printed[volumes + 20].strip() == "and 99 more; --json has all"  # of 119 classes
    preprocess_command.run(root, tmp_path / "out", num_levels=2, jobs=1)
    out, err = capsys.readouterr()
    for line in stray:
        assert f"Warning: {line}: every value becomes a class" in err
    assert "classes: background, class 1, class 2," in out
    assert "class 19 and 100 more" in out


@pytest.mark.parametrize("build", [msd, plain])
def test_a_case_without_labels_is_odd_and_the_others_are_described_and_prepared(tmp_path, build):
    root = build(tmp_path / "data", ("a", "b", "c"))
    next(root.rglob("label*/b.nii.gz")).unlink()
    facts = info(root)
    assert facts["odd"][0] == "b cannot be used: the case has no labels; expected a labels file named b"
    assert sorted(facts["per_case"]) == ["a", "c"]
    with pytest.raises(SomeCasesFailed, match="1 of 3 cases failed\n  b  the case has no labels"):
        preprocess(root, tmp_path / "out", PreprocessOptions(num_levels=2, num_jobs=1))
    assert sorted(open_prepared(tmp_path / "out").records) == ["a", "c"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1, 1, 100], ["4"]),  # more than half are equal
        ([1, 1.1, 0.9, 1.05, 0.95, 1.45], []),  # within the factor
        ([10, 11, 9, 10.5, 9.5, 1], ["5"]),
        ([1, 2, 4, 8, 16], []),  # spread evenly over octaves
        ([1, 100], []),  # two do not say which is odd
        ([0, 1, 1, 1, 1], []),  # 0 has no logarithm: it is reported elsewhere
    ],
)
def test_outliers(values, expected):
    assert outliers({str(index): value for index, value in enumerate(values)}) == expected
