"""From the values of labels files to class indices."""

import numpy as np
import pytest
from dataset_files import plain, put

from rarecli.core.config.plan import IGNORED
from rarecli.core.data.cases import class_indices
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import DataError, SomeCasesFailed


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 7, 255), (0, 1001, 2035), (0, 4, 2**31 - 1)])
def test_any_values_become_the_numbers_of_their_classes(values):
    labels = np.array(values, np.int32)[np.array([[[0, 2], [1, 1]]])]
    found = class_indices(labels, values)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 2], [1, 1]]]


@pytest.mark.parametrize("ignored", [3, 255, 2**31 - 1])
def test_voxels_without_annotation_have_an_index_of_their_own(ignored):
    found = class_indices(np.array([0, 1, ignored], np.int32), (0, 1), ignored_value=ignored)
    assert found.tolist() == [0, 1, IGNORED]


@pytest.mark.parametrize("stray", [-1, 5, 2**31 - 1])
def test_undeclared_values_are_counted(stray):
    with pytest.raises(DataError, match="undeclared values") as caught:
        class_indices(np.array([0, 1, stray, stray, 4], np.int64), (0, 1))
    assert f"{stray} (2 voxels)" in str(caught.value)
    assert "4 (1 voxels)" in str(caught.value)


@pytest.mark.parametrize(("num", "refused"), [(255, False), (256, True)])
def test_more_than_255_classes_are_refused(num, refused, tmp_path):
    """The byte 255 marks voxels without annotation. Such a file usually holds intensities or instances."""
    root = plain(tmp_path / "data")
    many = (np.arange(16 * 16 * 16) % num).astype(np.int16).reshape(16, 16, 16)
    for name in ("a", "b"):
        put(root / "images" / f"{name}.nii.gz", many, np.eye(4))
        put(root / "labels" / f"{name}.nii.gz", 3 * many, np.eye(4))
    options = PreprocessOptions(num_levels=2, num_jobs=1)
    if refused:
        with pytest.raises(DataError, match="too many values") as caught:
            preprocess(root, tmp_path / "out", options)
        assert "256 values, 0 to 765" in str(caught.value)
        put(root / "labels" / "a.nii.gz", 5 * (many % 2), np.eye(4))  # one file of intensities does not refuse the others
        with pytest.raises(SomeCasesFailed, match=r"1 of 2 cases failed\n  b  the labels have too many values; .*256 values") as some:
            preprocess(root, tmp_path / "out", options)
        assert some.value.result["plan"]["label_values"] == [0, 5]
    else:
        assert preprocess(root, tmp_path / "out", options).plan.label_values == tuple(range(0, 765, 3))
