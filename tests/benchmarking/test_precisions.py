"""What a precision costs, counted by hand on scans of a few voxels."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.benchmarking import precisions
from rarecli.core.data.cases import Case
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.evaluation.resolutions import Resolution

SPEC = load_manifest(built_in_models()["hippocampus"]).spec
_, ONE, TWO = SPEC.plan.label_values


class Answer:
    """Predicts the scan itself, whose voxels are the labels; bf16 overlooks the voxels of the first plane."""

    spec = SPEC

    def __init__(self, bundle, device, backend, precision):
        self.lossy = precision == "bf16"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def predict(self, scan):
        labels = scan.data[0].astype(np.uint8)
        if self.lossy:
            labels[0] = 0
        return SimpleNamespace(labels=labels)


def case(folder, name, planes):
    """A scan of 4x4x4 voxels, 8 of them labelled 1, in these planes; labels and scan are the same."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[planes, :2, :2] = ONE
    paths = [folder / f"{name}_{kind}.nii.gz" for kind in ("image", "labels")]
    for path, data in zip(paths, (labels.astype(np.float32), labels), strict=True):
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return Case(name, (paths[0],), paths[1])


def test_dice_is_the_mean_over_cases_and_changes_are_counted_over_all_of_them(tmp_path, monkeypatch):
    """The first case loses 4 of 8 voxels: Dice 2 * 4 / (4 + 8) of label 1, 1 of label 2, which is nowhere. The second loses none."""
    monkeypatch.setattr(precisions, "Predictor", Answer)
    monkeypatch.setattr(precisions, "choose_resolutions", lambda *_: [Resolution((0, 0, 0))])
    monkeypatch.setattr(precisions, "precision_fault", lambda _, precision: "this CPU lacks it" if precision == "int8" else None)
    record = precisions.measure_precisions(tmp_path, [case(tmp_path, "a", [0, 1]), case(tmp_path, "b", [2, 3])])
    assert record.num_cases == 2
    assert [one.precision for one in record.measured] == ["fp32", "bf16"]
    exact, lossy = record.measured
    assert (exact.dice, exact.labels_changed) == ((1.0,), (0.0,))
    assert lossy.dice == (pytest.approx((5 / 6 + 1) / 2),)
    assert lossy.labels_changed == (4 / 16,)
