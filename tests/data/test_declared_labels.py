"""Labels as dataset.json declares them, with regions."""

from pathlib import Path

import pytest

from rarecli.core.config.plan import Region
from rarecli.core.data.declared_labels import DeclaredLabels, read_labels_field
from rarecli.core.errors import DataError

PATH = Path("dataset.json")
BRATS = {"background": 0, "whole tumour": [1, 2, 4], "tumour core": [1, 4], "enhancing tumour": [4]}


def test_regions_are_unions_and_every_value_is_a_class():
    found = read_labels_field(BRATS, PATH)
    assert found.names == {0: "background", 1: "class 1", 2: "class 2", 4: "class 4"}
    assert found.ignored_value is None
    assert found.regions == (
        Region(name="whole tumour", label_values=(1, 2, 4)),
        Region(name="tumour core", label_values=(1, 4)),
        Region(name="enhancing tumour", label_values=(4,)),
    )


def test_a_region_of_one_value_may_be_a_number():
    assert read_labels_field({"background": 0, "all": [2, 1], "core": 1}, PATH).regions == (
        Region(name="all", label_values=(1, 2)),
        Region(name="core", label_values=(1,)),
    )


def test_without_regions_names_are_classes():
    assert read_labels_field({"background": 0, "front": 2}, PATH) == DeclaredLabels({0: "background", 2: "front"})


def test_the_ignore_label_is_no_class():
    found = read_labels_field({"background": 0, "front": 1, "ignore": 2}, PATH)
    assert found == DeclaredLabels({0: "background", 1: "front"}, ignored_value=2)
    found = read_labels_field({"background": 0, "all": [1, 2], "core": [2], "ignore": 3}, PATH)
    assert (list(found.names), [region.name for region in found.regions], found.ignored_value) == ([0, 1, 2], ["all", "core"], 3)


@pytest.mark.parametrize("ignored", [[2, 3], [1], 0])
def test_an_ignore_label_beside_regions_has_one_value_of_its_own(ignored):
    with pytest.raises(DataError, match="the ignore label is part of another"):
        read_labels_field({"background": 0, "all": [1, 2], "ignore": ignored}, PATH)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "x": [1, "2"]},
        {"background": 0, "x": []},
        {"background": 0, "x": [1, 1]},
        {"background": 0, "x": [1, True]},
        {"background": 0, "x": [-1, 2]},
        {"background": 0, "x": {"y": 1}},
        {"background": 0, "x": 1.0},
        [0, 1],
        None,
    ],
    ids=str,
)
def test_anything_else_is_refused(labels):
    with pytest.raises(DataError, match="labels must map names to integers, or to lists of them"):
        read_labels_field(labels, PATH)


def test_a_region_cannot_hold_the_background():
    with pytest.raises(DataError, match="a region holds the background"):
        read_labels_field({"background": 0, "x": [0, 1]}, PATH)
