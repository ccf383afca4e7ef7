import builtins
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from rarecli.core.errors import EnvironmentFault
from rarecli.core.evaluation.surfaces import measure, require_monai, surface_record


def cube(start, size=6, shape=(24, 20, 22)):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(s, s + size) for s in start)] = 1
    return labels


def blob(seed, shape=(17, 14, 12)):
    """Two touching classes of ragged outline, up to the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.8])).astype(np.uint8)


def distances(one, other, spacing):
    """Return the distance of every surface voxel of one mask to the other surface, by scipy's distance transform, not MONAI's trees."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    return ndimage.distance_transform_edt(~surfaces[1], sampling=spacing)[surfaces[0]]


@pytest.mark.parametrize(("shift", "hd95_mm"), [((3, 0, 0), 3 * 0.5), ((0, 2, 0), 2 * 1.0), ((0, 0, 3), 3 * 4.0)])
def test_a_cube_shifted_along_one_axis_by_hand(shift, hd95_mm):
    """Of 152 surface voxels of a 6-cube, a whole face of 36 lies the whole shift away, so the 95th percentile is the shift."""
    reference = cube((8, 7, 8))
    moved = cube(tuple(8 - (axis == 1) + s for axis, s in enumerate(shift)))
    assert surface_record(moved, reference, (0.5, 1.0, 4.0), 2)[0]["hd95_mm"] == pytest.approx(hd95_mm)


def test_surface_dice_of_shifted_cubes_by_hand():
    """A shift of one voxel is within the tolerance along any axis. Two voxels along x are counted layer by layer in a cube's 152."""
    reference = cube((8, 7, 8))
    for shift in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        moved = cube(tuple(start + s for start, s in zip((8, 7, 8), shift, strict=True)))
        assert surface_record(moved, reference, (0.5, 1.0, 4.0), 2)[0]["surface_dice"] == 1
    moved = cube((10, 7, 8))
    # layer 0, the face (36), is 2 away; layer 1 (20) is 1 away; layers 2 to 4 (60) lie on the other cube's sides; of layer 5, the
    # other face (36), the rim (20) lies on them, the next ring (12) 1 beside them, the middle (4) 2
    assert surface_record(moved, reference, (0.5, 1.0, 4.0), 2)[0]["surface_dice"] == pytest.approx((20 + 60 + 20 + 12) / 152)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 1.4, 3.1)])
@pytest.mark.parametrize("seed", range(3))
def test_both_agree_with_the_distance_transform(seed, spacing):
    one, other = blob(seed), blob(seed + 10)
    for index, found in enumerate(surface_record(one, other, spacing, 3), start=1):
        there, back = (distances(a == index, b == index, spacing) for a, b in ((one, other), (other, one)))
        assert found["hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
        voxels = np.concatenate([distances(a == index, b == index, (1, 1, 1)) for a, b in ((one, other), (other, one))])
        assert found["surface_dice"] == pytest.approx((voxels <= 1).mean(), rel=1e-5)


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_missed_or_in_neither_has_no_hd95():
    reference = cube((2, 2, 2)) * 2
    found = surface_record(cube((2, 2, 2)) * 3, reference, (1, 1, 1), 4)
    assert found == [
        {"hd95_mm": None, "surface_dice": 1.0},
        {"hd95_mm": None, "surface_dice": 0.0},
        {"hd95_mm": None, "surface_dice": 0.0},
    ]
    assert surface_record(reference, reference, (1, 1, 1), 3)[1] == {"hd95_mm": 0, "surface_dice": 1}


def test_without_a_spacing_there_are_no_surface_metrics():
    labels = cube((2, 2, 2))
    assert measure(labels, labels, ("background", "one"), None)["one"].keys() == {"dice", "iou", "precision", "recall", "n_ref", "n_pred"}
    assert measure(labels, labels, ("background", "one"), (1, 1, 1))["one"]["hd95_mm"] == 0


def test_without_monai_the_error_names_the_extra_and_the_way_without(monkeypatch):
    real = builtins.__import__

    def blocked(name, *arguments, **options):
        if name.startswith("monai"):
            raise ModuleNotFoundError(name, name="monai")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(EnvironmentFault, match="monai is not installed") as caught:
        require_monai()
    assert 'pip install "rare-unet[train]"; --no-surface does without' in str(caught.value)


def test_monai_waits_until_a_surface_is_measured():
    probe = (
        "import sys\nimport rarecli.core.evaluation.evaluate, rarecli.core.evaluation.score, rarecli.core.prediction.predictor, rarecli\n"
        "heavy = {'torch', 'monai', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_user_without_a_name_can_measure_surfaces():
    """`docker --user 4242` has no passwd entry, and MONAI reads the user's name at import."""
    script = """
import os, pwd
def nobody(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
for name in ("LOGNAME", "USER", "LNAME", "USERNAME"): os.environ.pop(name, None)
from rarecli.core.evaluation.surfaces import require_monai
require_monai()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
