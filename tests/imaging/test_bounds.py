"""What costs too much is refused from the header, before anything is allocated."""

import tracemalloc

import numpy as np
import pytest
from nifti_files import make
from phantom_spec import RULES

from rarecli.core.errors import DataError
from rarecli.core.imaging import bounds
from rarecli.core.imaging.bounds import prediction_bytes, require_affordable
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import classes_of_slabs
from rarecli.core.imaging.sliding_window import logits_in_slabs
from rarecli.core.imaging.volume import Volume, read_volume
from rarecli.core.jobs import memory


def affordable(shape, spacing):
    require_affordable(shape, 1, RULES.route((spacing,) * 3), RULES)


# patches of 32^3 at depth 0 and 4^3 at depth 3; least sizes 32 and 4
@pytest.mark.parametrize("turn", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize(
    ("shape", "spacing", "fits"),
    [
        ((163842, 1, 1), 1.0, False),  # 1024 times as many voxels, in 10240 windows
        ((163842, 1, 1), 8.0, False),  # 16 times as many, in 81920 windows
        ((163842, 5, 6), 1.0, False),  # 34 times
        ((163842, 6, 6), 1.0, True),  # 28 times
        ((5000, 1, 1), 1.0, False),  # 312 windows
        ((4000, 1, 1), 1.0, True),  # 249 windows
        ((2048, 2048, 1), 1.0, True),  # a single slice: 32 times
        ((512, 512, 1), 8.0, True),
        ((1, 1, 1), 1.0, True),
    ],
)
def test_a_scan_that_is_thin_along_two_axes_is_refused_if_it_is_long(shape, spacing, fits, turn):
    shape = tuple(shape[axis] for axis in turn)
    if fits:
        affordable(shape, spacing)
    else:
        with pytest.raises(DataError, match="too thin for its length") as caught:
            affordable(shape, spacing)
        assert "windows" in str(caught.value)


def test_the_refusal_states_numbers():
    with pytest.raises(DataError) as caught:
        affordable((163842, 1, 1), 1.0)
    assert "163842 x 1 x 1 voxels on the grid of depth 0: padding makes them 1024 times as many, in 10240 windows" in str(caught.value)
    assert "at most 32 times as many, or at most 256 windows" in str(caught.value)


def test_the_need_by_hand():
    """Scan and image of 40 x 50 x 20 voxels; labels, logits of 3 classes in a slab of 32 x 50 x 32, and the network at one window."""
    whole, less = (prediction_bytes((40, 50, 20), num_channels, RULES.route((1, 1, 1)), RULES) for num_channels in (1, 0))
    assert whole - less == 4 * 2 * 40 * 50 * 20
    longer = prediction_bytes((80, 50, 20), 0, RULES.route((1, 1, 1)), RULES)
    wider = prediction_bytes((40, 100, 20), 0, RULES.route((1, 1, 1)), RULES)
    assert longer - less == 40 * 50 * 20
    assert wider - less == 40 * 50 * 20 + 4 * 3 * 32 * 50 * 32


def test_percentiles_of_a_large_scan_take_more_than_a_slab():
    """Scan, image, and a channel in float64."""
    assert prediction_bytes((512, 512, 300), 1, RULES.route((1, 1, 1)), RULES) == (4 + 4 + 8) * 512 * 512 * 300


@pytest.mark.parametrize(("shape", "spacing"), [((90, 80, 70), 1.0), ((60, 50, 40), 2.9), ((64, 64, 20), 0.7)])
def test_a_prediction_takes_at_least_what_is_said_and_not_much_more(shape, spacing, monkeypatch):
    monkeypatch.setattr(bounds, "least_memory_bytes", lambda *_: 0)  # the network takes nothing here
    way = RULES.route((spacing,) * 3)
    data = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    tracemalloc.start()
    scan = Volume(data.copy(), np.diag([spacing] * 3 + [1.0]))
    routed = prepare_scan(scan, RULES)
    axis = way.slab_axis
    classes_of_slabs(logits_in_slabs(routed.image, RULES, way.entry, lambda window, _: np.repeat(window, 3, axis=1), axis=axis), routed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    needed = prediction_bytes(shape, 1, way, RULES)
    assert needed <= peak <= 6 * needed


def test_a_file_is_refused_by_the_memory_of_the_machine(tmp_path, monkeypatch):
    """Reading holds the voxels as float32 twice, in the order of the file and of the array: 8 bytes each."""
    path = make(tmp_path / "scan.nii", data=np.zeros((100, 100, 100), dtype=np.int16))
    monkeypatch.setattr(memory, "memory_bytes", lambda: 7_999_999)
    tracemalloc.start()
    with pytest.raises(DataError, match="more memory than this machine has") as caught:
        read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert caught.value.exit_code == 3
    monkeypatch.setattr(memory, "memory_bytes", lambda: 8_000_000)
    assert read_volume(path).shape == (100, 100, 100)


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "70000\n", "a/b/memory.max": "max\n"}, 70000),
        ("0::/\n", {"memory.max": "60000\n"}, 60000),
        (
            "5:cpu:/x\n4:memory:/x\n0::/\n",
            {"memory/x/memory.limit_in_bytes": "50000", "memory/memory.limit_in_bytes": str(2**63 - 4096)},
            50000,
        ),
        ("0::/a\n", {}, None),
        ("", {}, None),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, own, limits, expected):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    read_anew = memory.memory_bytes.__wrapped__
    machine = read_anew()
    (tmp_path / "own").write_text(own)
    for name, text in limits.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert read_anew() == (machine if expected is None else expected)
