"""Manifests that say something else than the export wrote, and scans for which that matters."""

import json
import shutil

from rarecli import Phantom

ISOTROPIC, ALIKE, UNEVEN = (2.25, 2.25, 2.25), (2.25, 2.4, 2.3), (2.2, 2.2, 3.2)
THIN = (2.0, 2.0, 2.1)
THICK = (2.25, 2.4, 3.2)
# the field; what else must be said for it to matter; its new value; the spacing of a scan for which it matters
CHANGES = {
    "window.overlap": ({}, 0.1, ISOTROPIC),
    "window.sigma": ({}, 0.6, ISOTROPIC),
    "window.min_weight": ({}, 0.8, ISOTROPIC),
    "window.padding_value": ({}, 0.7, THIN),
    "routing.trained_spacing_mm": ({}, [2.0, 2.0, 2.0], ISOTROPIC),
    "routing.by": ({"routing.as_is_octaves": 0.5}, "nearest", THICK),
    "routing.tolerance": ({}, 0.4, ISOTROPIC),
    "routing.rounding_slack": ({"routing.tolerance": 0.12}, 0.009, ISOTROPIC),
    "routing.as_is_octaves": ({}, 0.5, ALIKE),
    "routing.as_is_anisotropy_octaves": ({"routing.as_is_octaves": 1.0}, 0.9, UNEVEN),
    "resampling.min_box_voxels": ({}, 4.0, ISOTROPIC),
    "engines.1.grid_spacing_mm": ({}, [2.25, 1.5, 3.0], ISOTROPIC),
    "engines.1.patch_shape": ({}, [24, 16, 32], ISOTROPIC),
    "engines.1.min_shape": ({"engines.1.patch_shape": [32, 32, 32]}, [16, 16, 32], THIN),
    "engines.1.divisors": ({"engines.1.patch_shape": [32, 32, 32]}, [32, 32, 32], THIN),
}


def change(bundle, target, edits):
    """A copy of a bundle whose manifest says something else."""
    copy = shutil.copytree(bundle, target)
    content = json.loads((copy / "manifest.json").read_text())
    for key, value in edits.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


def changed_and_before(bundle, folder, field):
    """Two copies of a bundle: one whose manifest says something else in `field`, one in which only the field differs from that."""
    before, value, _ = CHANGES[field]
    edits = before | {field: value}
    if divisors := edits.get("engines.1.divisors"):
        edits["engines.1.min_shape"] = divisors  # must be a multiple
    return change(bundle, folder / "changed", edits), change(bundle, folder / "before", before)


def scan_of(spacing):
    """A scan in RAS axes that takes several windows at depth 1 along its long axes."""
    scan, _ = Phantom(6, (82.0, 90.0, 20.0 if spacing == THIN else 74.0)).acquire(spacing)
    return scan.data, spacing
