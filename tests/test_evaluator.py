import csv
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn import functional

from rarecli import Phantom, Predictor
from rarecli.core.config import ModelSpec, NetworkConfig, Plan
from rarecli.core.errors import DataError, SomeCasesFailed, UsageError
from rarecli.core.evaluator import evaluate, read_case_names, score, validate, view_at
from rarecli.core.phantoms import write_phantoms
from rarecli.core.predictor import Prediction
from rarecli.core.prepared import open_prepared
from rarecli.core.preparing import PreprocessOptions, preprocess
from rarecli.core.volume import Volume, write_labels

PLAN = Plan(
    dataset="Phantoms",
    channel_names=("channel 0",),
    label_names=("background", "head", "tail"),
    label_values=(0, 1, 2),
    spacing_mm=(1, 1, 1),
    patch_size=(32, 32, 32),
    num_levels=4,
)
SPEC = ModelSpec(name="test", plan=PLAN, network=NetworkConfig(num_classes=3))


class Oracle:
    """A predictor whose answers are known: the fixed class `answer` everywhere."""

    spec = SPEC
    runner = type("Runner", (), {"backend": "none"})

    def __init__(self, answer=0):
        self.answer, self.asked = answer, []

    def predict(self, scan, depth=None):
        self.asked.append((scan, depth))
        return Prediction(np.full(scan.shape, self.answer, dtype=np.uint8), scan.affine, depth or 0, "", (1, 1, 1), None, 0.0)


def test_the_paper_protocol_is_crop_trilinear_and_nearest():
    image, labels = Phantom(1, (36.0, 30.0, 41.0)).acquire(1.0)
    # 36 -> 32 crops 2 and 2; 30 -> 32 pads 1 and 1; 41 -> 32 crops 5 (ceil of 9/2) and 4
    fixed = np.pad(image.data[0][2:34, :, 5:37], ((0, 0), (1, 1), (0, 0)))
    fixed_labels = np.pad(labels.data[0][2:34, :, 5:37], ((0, 0), (1, 1), (0, 0)))
    for depth in range(4):
        scale = 0.5**depth
        down = functional.interpolate(torch.from_numpy(fixed)[None, None], scale_factor=scale, mode="trilinear", align_corners=False)
        nearest = functional.interpolate(torch.from_numpy(fixed_labels).float()[None, None], scale_factor=scale, mode="nearest")
        view, reference = view_at(image, labels, SPEC, depth, "paper")
        np.testing.assert_allclose(view.data[0], down[0, 0].numpy(), atol=1e-6)
        np.testing.assert_array_equal(reference, nearest[0, 0].numpy())
        assert view.spacing_mm == (2.0**depth,) * 3


def test_the_native_protocol_keeps_the_field_of_view_and_counts_volume():
    image, labels = Phantom(1).acquire(1.0)
    view, reference = view_at(image, labels, SPEC, 2, "native")
    blocks = image.data[0].reshape(8, 4, 8, 4, 8, 4)
    np.testing.assert_allclose(view.data[0], blocks.mean(axis=(1, 3, 5)), atol=1e-5)
    votes = [(labels.data[0] == k).reshape(8, 4, 8, 4, 8, 4).sum(axis=(1, 3, 5)) for k in range(3)]
    np.testing.assert_array_equal(reference, np.argmax(votes, axis=0))
    centre = (np.array(image.shape) - 1) / 2
    coarse_centre = (np.array(view.shape) - 1) / 2
    np.testing.assert_allclose(view.affine @ [*coarse_centre, 1], image.affine @ [*centre, 1])


def test_the_summary_is_the_mean_over_cases_and_classes(tmp_path):
    write_phantoms(tmp_path / "data", range(3))
    oracle = Oracle(answer=1)
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", depths=[0, 2], upsampled=False)
    per_case = []
    for seed in range(3):
        _, labels = Phantom(seed).acquire(1.0)
        head = int((labels.data == 1).sum())
        # all voxels are called head: Dice 2h / (n + h); tail is missed: 0
        per_case.append((2 * head / (32**3 + head) + 0) / 2)
    assert summary["per_depth"]["0"]["dice"] == pytest.approx(np.mean(per_case))
    assert summary["per_depth"]["0"]["dice_std"] == pytest.approx(np.std(per_case))
    assert summary["per_depth"]["0"]["mean"]["tail"]["dice"] == 0
    assert {"metric_per_case", "mean", "foreground_mean", "per_depth"} <= summary.keys()
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"dice_over_resolution.png", *(f"slices_phantom_{seed:03d}.png" for seed in range(3))}


def test_the_upsampled_baseline_enters_at_depth_0(tmp_path):
    write_phantoms(tmp_path / "data", range(1))
    oracle = Oracle()
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", protocol="paper")
    assert [depth for _, depth in oracle.asked] == [0, 1, 0, 2, 0, 3, 0]
    assert summary["per_method"].keys() == {"routed", "upsampled"}
    assert summary["per_method"]["upsampled"].keys() == {"1", "2", "3"}


def test_classes_empty_in_both_are_counted_and_score_one(tmp_path):
    image, labels = Phantom(0).acquire(1.0)
    write_labels(tmp_path / "references" / "a.nii.gz", (labels.data[0] == 1) * 2, image)
    write_labels(tmp_path / "predictions" / "a.nii.gz", (labels.data[0] == 1) * 2, image)
    write_labels(tmp_path / "references" / "b.nii.gz", np.zeros(image.shape, np.uint8), image)
    write_labels(tmp_path / "predictions" / "b.nii.gz", np.zeros(image.shape, np.uint8), image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    assert summary["mean"].keys() == {"2"}
    assert summary["foreground_mean"]["dice"] == 1
    one = next(item for item in summary["metric_per_case"] if item["case"] == "b")
    assert one["metrics"]["2"]["n_ref"] == 0


def test_digits_at_the_end_of_a_label_file_are_part_of_its_name(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    for index in range(3):
        write_labels(tmp_path / "references" / f"sub_{index:04d}.nii.gz", labels.data[0], image)
        write_labels(tmp_path / "predictions" / f"sub_{index:04d}.nii.gz", labels.data[0] * (index == 0), image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    assert len(summary["metric_per_case"]) == 3
    assert summary["foreground_mean"]["dice"] == pytest.approx(1 / 3)


def test_references_without_a_prediction_are_named(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    said = []
    listener = type("Listener", (), {"warn": said.append, "say": said.append, "track": lambda self, items, label, total: items})
    for name in ("a", "b"):
        write_labels(tmp_path / "references" / f"{name}.nii.gz", labels.data[0], image)
    write_labels(tmp_path / "predictions" / "a.nii.gz", labels.data[0], image)
    score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out", listener())
    assert said == ["1 references have no prediction and are not scored: b"]


def test_scoring_refuses_what_does_not_belong_together(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    write_labels(tmp_path / "predictions" / "a.nii.gz", labels.data[0], image)
    (tmp_path / "references").mkdir()
    write_labels(tmp_path / "references" / "b.nii.gz", labels.data[0], image)
    with pytest.raises(DataError, match="no reference"):
        score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    moved = Volume(image.data, image.affine + np.eye(4)[:, [3]] * [0, 0, 0, 1])
    moved.affine[0, 3] += 1
    write_labels(tmp_path / "references" / "a.nii.gz", labels.data[0], moved)
    with pytest.raises(DataError, match="different grids"):
        score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")


def test_validation_and_evaluation_agree_on_shapes_that_are_no_multiples(run, tmp_path):
    write_phantoms(tmp_path / "data", range(2), extent_mm=(35.0, 29.0, 33.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32), num_jobs=1))
    with Predictor(run, device="cpu") as predictor:
        live = validate(predictor.runner, open_prepared(tmp_path / "prepared"), predictor.spec, ["phantom_000", "phantom_001"])
        summary = evaluate(tmp_path / "data", predictor, tmp_path / "out", upsampled=False)
    for depth in range(4):
        assert live[f"dice_depth{depth}"] == pytest.approx(summary["per_depth"][str(depth)]["dice"], abs=1e-9)


def test_validation_during_training_is_the_evaluation_of_the_run(run, prepared, phantom_dataset, tmp_path):
    names = ["phantom_001", "phantom_004"]
    with Predictor(run, device="cpu") as predictor:
        live = validate(predictor.runner, open_prepared(prepared), predictor.spec, names)
        summary = evaluate(phantom_dataset, predictor, tmp_path / "out", names=names, upsampled=False)
    for depth in range(4):
        assert live[f"dice_depth{depth}"] == pytest.approx(summary["per_depth"][str(depth)]["dice"], abs=1e-9)
    assert live["dice_mean"] == pytest.approx(np.mean([live[f"dice_depth{depth}"] for depth in range(4)]))


def test_a_broken_case_does_not_stop_the_evaluation(tmp_path):
    write_phantoms(tmp_path / "data", range(2), 8.0)
    (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    with pytest.raises(SomeCasesFailed, match="1 of 2 cases failed: phantom_000"):
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", depths=[0])
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["failed"]) == ["phantom_000"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.json", '["a", "b"]', nullcontext(["a", "b"])),
        ("run.json", '{"split": {"train": ["x"], "val": ["a", "b"]}}', nullcontext(["a", "b"])),
        ("list.txt", "a\nb\n", nullcontext(["a", "b"])),
        ("other.json", '{"c": 1}', pytest.raises(UsageError)),
    ],
)
def test_lists_of_cases(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    with expected as names:
        assert read_case_names(tmp_path / name) == names


def test_unknown_cases_are_named(tmp_path):
    write_phantoms(tmp_path / "data", range(1), 8.0)
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", names=["nobody"])
    assert "nobody" in str(caught.value)
