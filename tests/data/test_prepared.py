import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rarecli.core.config.plan import Plan
from rarecli.core.data.prepared import CaseRecord, PreparedIndex, foreground_voxels, open_prepared
from rarecli.core.errors import DataError

SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
LIMITS = (((0.0, 1.0), (0.0, 1.0)),)


def build(root):
    plan = Plan(
        dataset="d",
        channel_names=("a", "b"),
        label_names=("background", "x", "y"),
        label_values=(0, 1, 2),
        spacing_mm=(1, 1, 1),
        patch_size=(8, 8, 8),
        num_levels=2,
    )
    record = CaseRecord(
        name="c", depth=0, shape=SHAPE, spacing_mm=(1, 1, 1), source_shape=SHAPE, limits=LIMITS, voxels_per_class=(70, 70, 70)
    )
    (root / "cases").mkdir()
    save_file({"image": IMAGE, "labels": LABELS, "foreground": foreground_voxels(LABELS, 3)}, root / "cases" / "c.safetensors")
    (root / "prepared.json").write_text(PreparedIndex(plan=plan, routing_plan=(1, 0), fingerprint={}, cases=(record,)).model_dump_json())
    return root


@pytest.fixture
def root(tmp_path):
    return build(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return open_prepared(build(tmp_path_factory.mktemp("prepared")))


def test_a_whole_case_comes_back(root):
    image, labels = open_prepared(root).read("c")
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


@given(st.data())
def test_a_box_is_that_part_of_the_case(whole, data):
    origin = tuple(data.draw(st.integers(0, size - 1)) for size in SHAPE)
    size = tuple(data.draw(st.integers(1, extent - start)) for extent, start in zip(SHAPE, origin, strict=True))
    box = tuple(slice(start, start + extent) for start, extent in zip(origin, size, strict=True))
    image, labels = whole.read("c", origin, size)
    assert np.array_equal(image, IMAGE[(slice(None), *box)])
    assert np.array_equal(labels, LABELS[box])


def test_a_folder_that_is_something_else(tmp_path):
    with pytest.raises(DataError, match="not a prepared dataset") as caught:
        open_prepared(tmp_path)
    assert "rare preprocess" in str(caught.value)


def test_a_missing_case_is_named(root):
    (root / "cases" / "c.safetensors").unlink()
    with pytest.raises(DataError, match="missing") as caught:
        open_prepared(root)
    assert caught.value.case == "c"


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_fault_35_a_truncated_case_is_a_named_error(root, size):
    """Training raises an error that names the case."""
    path = root / "cases" / "c.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="cannot be read") as caught:
        open_prepared(root).read("c")
    assert caught.value.case == "c"
    assert "rare preprocess again" in str(caught.value)


def test_fault_49_a_pickle_in_place_of_a_case_is_refused(root):
    """Refused as a prepared case."""
    (root / "cases" / "c.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 9'\ntR.")
    with pytest.raises(DataError):
        open_prepared(root).read("c")


@pytest.mark.parametrize(
    "change", [{"plan": None}, {"surprise": 1}, {"cases": [{"name": "c"}]}, {"routing_plan": "many"}, {"patch": 5}], ids=str
)
def test_a_broken_index_is_a_data_error_with_its_path(root, change):
    path = root / "prepared.json"
    content = json.loads(path.read_text())
    if "patch" in change:
        content["plan"]["patch_size"] = [5, 8, 8]
    else:
        content |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        open_prepared(root)
    assert str(path) in str(caught.value)


def test_foreground_voxels_are_foreground_and_of_every_class():
    voxels = foreground_voxels(LABELS, 3)
    assert voxels.dtype == np.int32
    assert sorted(map(tuple, voxels)) == sorted(map(tuple, np.argwhere(LABELS > 0)))


def test_foreground_voxels_are_at_most_so_many_per_class_and_spread():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:] = 1
    labels[0, 0, :3] = 2
    voxels = foreground_voxels(labels, 4, most_per_class=50)
    found = labels[tuple(voxels.T)]
    assert [int((found == k).sum()) for k in range(4)] == [0, 50, 3, 0]
    assert len({tuple(voxel) for voxel in voxels}) == 53
    assert voxels[:50, 0].min() == 2
    assert voxels[:50, 0].max() == 9


def test_no_foreground_is_no_voxels():
    assert foreground_voxels(np.zeros((3, 3, 3), np.uint8), 3).shape == (0, 3)


@pytest.mark.parametrize("labels", [np.full(SHAPE, 3, np.uint8), LABELS.astype(np.int16)])
def test_labels_that_no_class_has_are_a_data_error(root, labels):
    save_file({"image": IMAGE, "labels": labels, "foreground": foreground_voxels(LABELS, 3)}, root / "cases" / "c.safetensors")
    with pytest.raises(DataError, match="damaged") as caught:
        open_prepared(root).read("c")
    assert caught.value.case == "c"
    assert f"{labels.dtype}, up to {labels.max()}" in str(caught.value)
