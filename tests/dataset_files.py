"""Small datasets of every layout."""

import json

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.data.layouts import open_dataset
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
