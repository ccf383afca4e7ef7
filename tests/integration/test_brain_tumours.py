"""Skull-stripped scans of several channels with regions, from the dataset to the labels of every consumer.

Phantoms of two channels with a margin of zeros stand for brains. tests/integration/cpp does the same with rare_infer.
"""

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import DataError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging.volume import Volume
from rarecli.core.prediction.predict import predict
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.training.train import TrainOptions, train

sys.path.insert(0, str(Path(__file__).parents[2] / "export" / "python"))
from consumer import segment

pytestmark = pytest.mark.slow
BEFORE, AFTER = (5, 2, 0), (1, 7, 4)


def margin(array):
    return np.pad(array, list(zip(BEFORE, AFTER, strict=True)))


def write_brains(root, num, without_tumour=()):
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for seed in range(num):
        image, labels = Phantom(seed, (30.0, 32.0, 28.0), 2).acquire(1.0)
        for channel in range(2):
            brain = image.data[channel] - image.data[channel].min() + 1  # nothing inside is 0
            nib.save(nib.Nifti1Image(margin(brain), image.affine), root / "imagesTr" / f"b{seed}_{channel:04d}.nii.gz")
        values = np.array([0, 1, 4], np.uint8)[labels.data[0] * (seed not in without_tumour)]
        nib.save(nib.Nifti1Image(margin(values), image.affine), root / "labelsTr" / f"b{seed}.nii.gz")
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 4], "core": [4]},
        "regions_class_order": [1, 4],
        "numTraining": num,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("brains") / "data", 4, without_tumour=(3,))


@pytest.fixture(scope="module")
def brain_run(brains, tmp_path_factory):
    """A briefly trained run with wide and thick views; the case without a tumour is among the training cases."""
    folder = tmp_path_factory.mktemp("brain_run")
    options = PreprocessOptions(num_levels=3, patch_size=(16, 16, 16), crop="nonzero", normalisation="percentile-nonzero", num_jobs=1)
    preprocess(brains, folder / "prepared", options)
    small = {"num_filters": 4, "num_depths": 3, "epochs": 2, "num_folds": 4, "fold": 1, "optimiser.lr": 4e-3, "coarse_from": 1}
    train(folder / "prepared", folder / "run", load_train_config("brain-tumour", overrides=small), TrainOptions(device="cpu"))
    return folder / "run"


def test_scans_are_cropped_and_the_margin_is_background(brain_run, brains, tmp_path):
    plan = find_model(brain_run).spec.plan
    assert (plan.crop, plan.label_values, [region.name for region in plan.regions]) == ("nonzero", (0, 1, 4), ["whole", "core"])
    files = [brains / "imagesTr" / f"b0_{channel:04d}.nii.gz" for channel in range(2)]
    voxels = np.stack([nib.load(file).get_fdata(dtype=np.float32) for file in files])
    affine = nib.load(files[0]).affine
    inside = tuple(slice(low, low + size) for low, size in zip(BEFORE, (30, 32, 28), strict=True))
    with Predictor(brain_run, backend="torch", device="cpu") as predictor:
        whole = predictor.predict(Volume(voxels, affine), probabilities=True)
        part = predictor.predict(Volume(voxels[(slice(None), *inside)], affine))
    assert whole.labels.shape == (36, 41, 32)
    np.testing.assert_array_equal(whole.labels[inside], part.labels)
    assert set(np.unique(whole.labels)) <= {0, 1, 4}
    outside = np.ones(whole.labels.shape, bool)
    outside[inside] = False
    assert not whole.labels[outside].any()
    assert (whole.probabilities[0][outside] == 1).all()


def test_every_consumer_crops_as_predict_does(brain_run, brains, tmp_path):
    export(brain_run, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0), (0, 0, 1)], check=False))
    voxels = np.stack([nib.load(brains / "imagesTr" / f"b1_{channel:04d}.nii.gz").get_fdata(dtype=np.float32) for channel in range(2)])
    affine = nib.load(brains / "imagesTr" / "b1_0000.nii.gz").affine
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0)):
        with Predictor(tmp_path / "bundle", backend="onnx") as predictor:
            expected = predictor.predict(Volume(voxels, affine @ np.diag([*spacing, 1.0]))).labels
        assert expected.any()
        np.testing.assert_array_equal(segment(voxels, spacing, tmp_path / "bundle"), expected)


def test_regions_are_scored_as_unions(brain_run, brains, tmp_path):
    summary = evaluate(
        brains, ModelChoice((brain_run,), "cpu", "torch"), tmp_path / "out", EvaluateOptions(depths=[0], surface=False, all_cases=True)
    )
    part = summary["per_method"]["routed"]["0"]
    assert list(part["mean"]) == ["class 1", "class 4"]
    assert list(part["regions"]) == ["whole", "core"]
    by_case = {item["case"]: item for item in summary["metric_per_case"] if item["method"] == "routed"}
    for item in by_case.values():  # the core is one class
        assert item["regions"]["core"]["dice"] == item["metrics"]["class 4"]["dice"]
        assert item["regions"]["whole"]["n_ref"] == sum(values["n_ref"] for values in item["metrics"].values())
    empty = by_case["b3"]["regions"]["whole"]
    assert empty["n_ref"] == 0
    assert empty["dice"] == (1.0 if empty["n_pred"] == 0 else 0.0)
    assert "whole" in (tmp_path / "out" / "cases.csv").read_text()


def test_channels_in_another_order_are_reported(brain_run, brains, tmp_path):
    """The channels of these phantoms differ in their mean, as FLAIR and T1 do."""
    folder = tmp_path / "swapped"
    folder.mkdir()
    for channel in range(2):
        scan = nib.load(brains / "imagesTr" / f"b0_{channel:04d}.nii.gz")
        data = scan.get_fdata(dtype=np.float32)
        stretched = np.where(data > 0, data**6, 0) if channel == 0 else data
        nib.save(nib.Nifti1Image(stretched, scan.affine), folder / f"b0_{channel:04d}.nii.gz")
    result = predict([folder], ModelChoice((brain_run,), "cpu", "torch"), tmp_path / "out")
    assert any("T1" in text for text in result["cases"]["b0"]["warnings"])


def test_a_missing_channel_is_named(brain_run, brains, tmp_path):
    data = shutil.copytree(brains, tmp_path / "data")
    (data / "imagesTr" / "b2_0001.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        preprocess(data, tmp_path / "prepared", PreprocessOptions(num_levels=3, num_jobs=1))
    assert "b2_0001.nii.gz (T2)" in str(caught.value)


def test_a_scan_that_was_not_stripped_is_reported_as_unlike(brain_run, brains):
    """Twice the field of view, and nothing is 0."""
    voxels = np.stack([nib.load(brains / "imagesTr" / f"b0_{channel:04d}.nii.gz").get_fdata(dtype=np.float32) for channel in range(2)])
    head = np.pad(voxels, [(0, 0), (16, 16), (16, 16), (16, 16)]) + 1
    with Predictor(brain_run, backend="torch", device="cpu") as predictor:
        warnings = predictor.predict(Volume(head, np.eye(4))).warnings
    assert any("field of view" in text for text in warnings)
