"""nnU-Net's ignore label, from dataset.json to the scores: voxels without annotation count nowhere.

Two datasets of the same phantoms are prepared. In one, the upper half of every phantom has the value of the ignore label.
"""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from rarecli import Predictor
from rarecli.core.config.geometry import isotropic
from rarecli.core.config.plan import IGNORED
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.open_model import open_model
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.score import score
from rarecli.core.info.info import info
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.training.multi_resolution import make_samples
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.startup import make_spec
from rarecli.core.training.validation import validate

SIZE, VALUE = 32, 9
KNOWN = slice(0, SIZE // 2)
"""Slices along z with annotation."""


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A dataset whose upper half has no annotation, in value 9."""
    root = tmp_path_factory.mktemp("half") / "data"
    write_phantoms(root, range(4))
    for file in (root / "labelsTr").iterdir():
        labels = nib.load(file)
        values = labels.get_fdata().astype(np.uint8)
        values[..., KNOWN.stop :] = VALUE
        nib.save(nib.Nifti1Image(values, labels.affine), file)
    content = json.loads((root / "dataset.json").read_text())
    content["labels"][str(VALUE)] = "ignore"
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def half_prepared(half, tmp_path_factory):
    output = tmp_path_factory.mktemp("half") / "prepared"
    preprocess(half, output, PreprocessOptions(num_jobs=1, patch_size=(16, 16, 16), num_levels=3))
    return open_prepared(output)


def raw(half, name):
    return nib.load(half / "labelsTr" / f"{name}.nii.gz").get_fdata()


def test_a_prepared_case_counts_annotated_voxels_only(half, half_prepared):
    assert half_prepared.plan.label_values == (0, 1, 2)
    for name, record in half_prepared.records.items():
        values = raw(half, name)
        assert record.voxels_per_class == tuple(int((values == index).sum()) for index in range(3))
        labels = half_prepared.read(name)[1]
        assert (labels[..., KNOWN.stop :] == IGNORED).all()
        assert (labels[..., KNOWN] < 3).all()
        assert (half_prepared.foreground(name)[:, 2] < KNOWN.stop).all()
        assert (half_prepared.annotated(name)[:, 2] < KNOWN.stop).all()
    assert f"{VALUE} ignore: voxels without annotation" in info(half)["labels"]


def test_every_patch_has_annotated_voxels(half, half_prepared):
    """Patches of 16^3 drawn anywhere in 32^3 would lie in the upper half by one in seventeen."""
    config = load_train_config(overrides={"foreground_share": 0.0, "num_depths": 3})
    source = PatchSource(half_prepared, make_spec(half_prepared, config), config)
    heights = set()
    for epoch in range(60):
        [patch] = source[epoch, 0, "phantom_000"]
        assert (patch.labels != IGNORED).any()
        heights.add(int((patch.labels != IGNORED).any(dim=0).any(dim=0).sum()))
    assert len(heights) > 5  # they are drawn, and not all the same


def test_no_resolution_turns_them_into_a_class(half_prepared):
    config = load_train_config(overrides={"num_depths": 3, "foreground_share": 0.0, "augmentation.probability": 1.0})
    spec = make_spec(half_prepared, config)
    patches = [patch for epoch in range(10) for patch in PatchSource(half_prepared, spec, config)[epoch, 0, "phantom_001"]]
    for sample in make_samples(patches, spec, torch.device("cpu")):
        for depth in range(3):
            assert set(np.unique(sample.labels[isotropic(depth)].numpy())) <= {0, 1, 2, IGNORED}


def test_validation_and_evaluation_score_the_annotated_part(half, run, prepared, phantom_dataset, tmp_path):
    """As its prediction of the scan, compared below the upper half by hand."""
    preprocess(half, tmp_path / "prepared", PreprocessOptions(num_jobs=1))
    rules, runner = open_model(run, "torch", "cpu")
    found = validate(runner, open_prepared(tmp_path / "prepared"), rules.spec, ["phantom_000"])
    whole = validate(runner, open_prepared(prepared), rules.spec, ["phantom_000"])
    model, options = ModelChoice((run,), "cpu", "torch"), EvaluateOptions(names=["phantom_000"], depths=[0, 2], upsampled=False)
    summary = evaluate(half, model, tmp_path / "out", options)
    of_case = {item["depth"]: item for item in summary["metric_per_case"]}
    scan, values = nib.load(phantom_dataset / "imagesTr" / "phantom_000.nii.gz"), raw(half, "phantom_000")
    with Predictor(run, device="cpu", backend="torch") as predictor:
        labels = predictor.predict(scan.get_fdata(dtype=np.float32), scan.affine).labels
    assert labels[..., KNOWN.stop :].any()
    for label, name in ((1, "head"), (2, "tail")):
        one, other = (volume[..., KNOWN] == label for volume in (labels, values))
        metrics = of_case[0]["metrics"][name]
        assert (metrics["n_pred"], metrics["n_ref"]) == (one.sum(), other.sum())
        assert metrics["dice"] == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
        assert of_case[2]["restored"][name]["n_ref"] == other.sum()
    assert found["dice_depth0"] == pytest.approx(np.mean([of_case[0]["metrics"][name]["dice"] for name in ("head", "tail")]), abs=1e-6)
    assert found["dice_depth0"] != whole["dice_depth0"]


def test_files_are_scored_where_the_reference_is_annotated(half, phantom_dataset, tmp_path):
    """Predictions that are right below and nonsense above have Dice 1 and no surface distance."""
    for file in sorted((phantom_dataset / "labelsTr").iterdir())[:2]:
        labels = nib.load(file)
        values = labels.get_fdata().astype(np.uint8)
        values[..., KNOWN.stop :] = 1 + (np.arange(KNOWN.stop) % 2)
        (tmp_path / "predictions").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, labels.affine), tmp_path / "predictions" / file.name)
    summary = score(half / "labelsTr", tmp_path / "predictions", tmp_path / "out")
    assert list(summary["mean"]) == ["1", "2"]
    assert {value["dice"] for value in summary["mean"].values()} == {1.0}
    assert {value["hd95_mm"] for value in summary["mean"].values()} == {0.0}
    plain = score(phantom_dataset / "labelsTr", tmp_path / "predictions", tmp_path / "other")
    assert plain["foreground_mean"]["dice"] < 0.9
