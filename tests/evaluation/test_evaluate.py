import csv
import json

import numpy as np
import pytest
from oracle import Oracle, listener
from phantom_spec import PER_AXIS, SPEC

from rarecli import Phantom, Predictor, dice
from rarecli.commands.tables import print_scores
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import DataError, SomeCasesFailed, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.protocols import reacquire
from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.resampling import resample_labels
from rarecli.core.imaging.restore import classes_of
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import write_labels
from rarecli.core.prediction.predictor import Prediction
from rarecli.core.training.validation import validate


class Perfect(Oracle):
    """Predicts the labels of a known scan, by majority on the requested grid."""

    def __init__(self, labels):
        self.labels = labels

    def predict(self, scan, entry=None, route=None):
        step = round(scan.spacing_mm[0])
        padded = np.pad(self.labels.data[0], [(0, -size % step) for size in self.labels.shape], mode="edge")
        coarse = resample_labels(padded, (1 / step,) * 3, 3)
        labels = coarse if scan.shape == coarse.shape else np.zeros(scan.shape, np.uint8)
        return Prediction(labels, scan.affine, (0, 0, 0), "", (1, 1, 1), None, 0.0)


class PerfectAtFullResolution(Oracle):
    """A network that segments a known scan correctly, with certainty, at full resolution, and predicts background at other depths."""

    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def predict(self, scan, entry=None, route=None):
        routed = prepare_scan(scan, self.rules, RouteChoice(entry, self.runner.entries, route))
        if max(routed.route.entry) > 0:
            return super().predict(scan, entry)
        pads = [(0, goal - size) for goal, size in zip(routed.image.shape[1:], self.labels.shape, strict=True)]
        right = np.pad(self.labels.data[0], pads, mode="edge")
        logits = np.where(np.arange(3)[:, None, None, None] == right, 0, -60).astype(np.float32)
        return Prediction(classes_of(logits, routed), scan.affine, (0, 0, 0), "", routed.route.zoom, None, 0.0)


@pytest.mark.parametrize("num_depths", [1, 4])
def test_protocol_paper_compares_labels_of_upsampled_scans_where_its_own_lie(tmp_path, num_depths):
    """The paper samples every 2^k-th label of the reference and of an upsampling network: a correct network is correct at every depth."""
    write_phantoms(tmp_path / "data", range(1))
    _, labels = Phantom(0).acquire(1.0)
    oracle = PerfectAtFullResolution(labels)
    if num_depths == 1:
        oracle.spec = SPEC.model_copy(update={"network": NetworkConfig(arch="unet", num_classes=3, num_depths=1)})
        oracle.runner = type("Runner", (), {"backend": "none", "entries": ((0, 0, 0),)})
    per_method = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(protocol="paper"))["per_method"]
    perfect = per_method["upsampled" if num_depths == 4 else "routed"]
    assert [depth for depth, part in perfect.items() if part["dice"] == 1] == (["1", "2", "3"] if num_depths == 4 else ["0", "1", "2", "3"])


@pytest.mark.parametrize("extent_mm", [(32.0, 32.0, 32.0), (35.0, 29.0, 33.0)])
@pytest.mark.parametrize("num_depths", [1, 4])
def test_protocol_native_scores_right_labels_of_upsampled_scans_as_right(tmp_path, num_depths, extent_mm):
    """With the nearest voxel, of which there are two at half the spacing, they would be half a voxel off."""
    write_phantoms(tmp_path / "data", range(1), extent_mm=extent_mm)
    _, labels = Phantom(0, extent_mm).acquire(1.0)
    oracle = PerfectAtFullResolution(labels)
    if num_depths == 1:
        oracle.spec = SPEC.model_copy(update={"network": NetworkConfig(arch="unet", num_classes=3, num_depths=1)})
        oracle.runner = type("Runner", (), {"backend": "none", "entries": ((0, 0, 0),)})
    per_method = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(surface=False))["per_method"]
    perfect = per_method["upsampled" if num_depths == 4 else "routed"]
    # but for voxels that tie: the reference looks at the voxels around, a network that is certain does not
    assert min(part["dice"] for depth, part in perfect.items() if depth != "0") > 0.97
    assert perfect["3"]["dice"] == 1


def test_the_summary_is_the_mean_over_cases_and_classes(tmp_path):
    write_phantoms(tmp_path / "data", range(3))
    oracle = Oracle(answer=1)
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(depths=[0, 2], upsampled=False))
    per_case = []
    for seed in range(3):
        _, labels = Phantom(seed).acquire(1.0)
        head = int((labels.data == 1).sum())
        # all voxels are predicted as head: Dice 2h / (n + h); tail is missed: 0
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
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(protocol="paper"))
    assert [entry and entry[0] for _, entry in oracle.asked] == [0, 1, 0, 2, 0, 3, 0]
    assert summary["per_method"].keys() == {"routed", "upsampled"}
    assert summary["per_method"]["upsampled"].keys() == {"1", "2", "3"}


def test_validation_and_evaluation_agree_on_shapes_that_are_no_multiples(run, tmp_path):
    write_phantoms(tmp_path / "data", range(2), extent_mm=(35.0, 29.0, 33.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32), num_jobs=1))
    with Predictor(run, device="cpu") as predictor:
        live = validate(predictor.runner, open_prepared(tmp_path / "prepared"), predictor.spec, ["phantom_000", "phantom_001"])
        summary = evaluate(tmp_path / "data", predictor, tmp_path / "out", EvaluateOptions(all_cases=True, upsampled=False))
    for depth in range(4):
        assert live[f"dice_depth{depth}"] == pytest.approx(summary["per_depth"][str(depth)]["dice"], abs=1e-9)


def test_validation_during_training_is_the_evaluation_of_the_run(run, prepared, phantom_dataset, tmp_path):
    names = ["phantom_001", "phantom_004"]
    with Predictor(run, device="cpu") as predictor:
        live = validate(predictor.runner, open_prepared(prepared), predictor.spec, names)
        summary = evaluate(phantom_dataset, predictor, tmp_path / "out", EvaluateOptions(names=names, upsampled=False))
    for depth in range(4):
        assert live[f"dice_depth{depth}"] == pytest.approx(summary["per_depth"][str(depth)]["dice"], abs=1e-9)
    assert live["dice_mean"] == pytest.approx(np.mean([live[f"dice_depth{depth}"] for depth in range(4)]))


def test_a_broken_case_does_not_stop_the_evaluation(tmp_path):
    write_phantoms(tmp_path / "data", range(2), 8.0)
    (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    with pytest.raises(SomeCasesFailed, match="1 of 2 cases failed"):
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(depths=[0]))
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["failed"]) == ["phantom_000"]


def test_native_scores_are_also_restored_beside_their_ceiling(tmp_path):
    write_phantoms(tmp_path / "data", [4], extent_mm=(35.0, 29.0, 33.0))
    image, labels = Phantom(4, (35.0, 29.0, 33.0)).acquire(1.0)
    oracle = Perfect(labels)
    part = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(depths=[0, 2], upsampled=False))["per_depth"]["2"]
    view = reacquire(image, labels, SPEC, Resolution((2, 2, 2)))
    expected = dice(view.restore(view.reference), labels.data[0], 3)[1:].mean()
    # the oracle's labels are the reference of the view: perfect there, and restored as well as possible
    assert part["dice"] == 1
    assert part["restored"]["dice"] == part["ceiling"]["dice"] == pytest.approx(expected)
    assert part["foreground_mean"]["hd95_mm"] == 0 < part["restored"]["foreground_mean"]["hd95_mm"] < 6
    paper = evaluate(tmp_path / "data", oracle, tmp_path / "paper", EvaluateOptions(depths=[0], protocol="paper", surface=False))[
        "per_depth"
    ]["0"]
    assert "restored" not in paper
    assert "hd95_mm" not in paper["foreground_mean"]


@pytest.mark.parametrize("absent", [False, True])
def test_the_table_counts_what_is_in_neither(tmp_path, capsys, absent):
    write_phantoms(tmp_path / "data", range(2))
    image, labels = Phantom(1).acquire(1.0)
    write_labels(tmp_path / "data" / "labelsTr" / "phantom_001.nii.gz", labels.data[0] * (not absent), image)
    print_scores(evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(depths=[0], surface=False)), "Scores")
    assert ("neither" in capsys.readouterr().out) == absent


def test_a_label_that_no_reference_has_is_not_scored_but_named(tmp_path):
    """A network that never predicts it would be correct in every case, which would raise its mean."""
    write_phantoms(tmp_path / "data", range(2))
    for seed in range(2):
        image, labels = Phantom(seed).acquire(1.0)
        write_labels(tmp_path / "data" / "labelsTr" / f"phantom_{seed:03d}.nii.gz", np.where(labels.data[0] == 2, 0, labels.data[0]), image)
    said = []
    options = EvaluateOptions(depths=[0], upsampled=False, surface=False)
    summary = evaluate(tmp_path / "data", Oracle(), tmp_path / "out", options, listener(said))
    assert list(summary["mean"]) == ["head"]
    assert summary["foreground_mean"]["dice"] == 0
    assert any("tail is in no reference" in text for text in said)


def test_nothing_but_background_is_refused(tmp_path):
    write_phantoms(tmp_path / "data", range(1))
    image, labels = Phantom(0).acquire(1.0)
    write_labels(tmp_path / "data" / "labelsTr" / "phantom_000.nii.gz", labels.data[0] * 0, image)
    with pytest.raises(DataError, match="only background"):
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(depths=[0], surface=False))


def test_a_scan_is_scored_as_rare_predict_segments_it(tmp_path):
    """The scan is passed on unchanged: only the predictor resamples its thick axis."""
    write_phantoms(tmp_path / "data", range(1), (1.0, 1.0, 2.0))
    oracle = Oracle()
    evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(depths=[0], surface=False))
    ((scan, entry),) = oracle.asked
    assert entry is None
    assert scan.spacing_mm == pytest.approx((1, 1, 2))


@pytest.mark.parametrize("targets", ["paper", "centred"])
@pytest.mark.parametrize("protocol", ["paper", "native"])
def test_another_protocol_than_that_of_the_training_is_said(tmp_path, protocol, targets):
    write_phantoms(tmp_path / "data", range(1))
    oracle, said = Oracle(), []
    oracle.spec = SPEC.model_copy(update={"targets": targets})
    evaluate(
        tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(depths=[0], surface=False, protocol=protocol), reporter=listener(said)
    )
    of_training = "paper" if targets == "paper" else "native"
    assert [of_training in text for text in said if "protocol" in text] == [True] * (protocol != of_training)


def test_the_curve_over_spacing(tmp_path):
    write_phantoms(tmp_path / "data", range(2))
    oracle = Oracle(answer=1)
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(spacings_mm=[(1,) * 3, (2,) * 3], surface=False))
    assert [point["spacing_mm"] for point in summary["curve"]] == [1, 1.4128, 1.41563, 2]
    assert [point["depth"] for point in summary["curve"]] == [0, 0, 1, 1]
    # one prediction if scans are routed to depth 0 anyway; otherwise routed, then upsampled
    assert [entry for _, entry in oracle.asked] == [None, None, None, (0, 0, 0), None, (0, 0, 0)] * 2
    assert [round(scan.spacing_mm[0], 4) for scan, _ in oracle.asked][:4] == [1, 1.4128, 1.4156, 1.4156]
    assert summary["curve"][0]["restored"]["ceiling"] == 1
    assert summary["curve"][3]["acquired"]["routed"] == summary["per_spacing"]["2"]["dice"]
    jump = summary["curve_facts"]["acquired"]["largest_jump"]
    assert jump["spacings_mm"] == [1.4128, 1.41563]
    assert jump["dice"] < 0.005  # the oracle does not depend on the depth
    assert summary["curve_facts"]["acquired"]["largest_deficit"]["dice"] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "summary.json",
        "cases.csv",
        "dice_over_spacing.png",
        "finished.jsonl",
    }
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


class PerAxis(Oracle):
    """A model with an entry for every axis of its own."""

    rules, spec = PER_AXIS, PER_AXIS.spec
    runner = type("Runner", (), {"backend": "none", "entries": PER_AXIS.routing.entries})


def test_thick_slices_are_scored_beside_their_upsampling_in_a_table_and_a_picture(tmp_path):
    write_phantoms(tmp_path / "data", range(1))
    oracle = PerAxis(answer=1)
    options = EvaluateOptions(grid=True, surface=False, spacings_mm=[(3.0, 3.0, 6.0)])
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", options)
    rows = {tuple(row["spacing_mm"]): row for row in summary["thick_slices"]}
    assert len(rows) == 3 * 6 + 3 * 5 + 1
    assert rows[1, 1, 4]["entry"] == [0, 0, 2]
    assert rows[3, 3, 6]["entry"] == [2, 2, 3]
    assert (rows[1, 5, 1]["slice_axis"], rows[1, 5, 1]["entry"]) == ("y", [0, 2, 0])
    assert rows[1, 1, 4]["acquired"].keys() == {"routed", "upsampled"}
    assert rows[1, 1, 4]["restored"]["ceiling"] < 1
    assert summary["per_spacing"]["1x1x4"]["dice"] == rows[1, 1, 4]["acquired"]["routed"]
    assert [point["spacing_mm"] for point in summary["curve"]] == [1, 1.4128, 1.41563, 2]
    assert (tmp_path / "out" / "dice_over_slices.png").stat().st_size > 10_000
    # by the finest axis: one depth for all axes, whatever the model has
    other = PerAxis(answer=1)
    evaluate(tmp_path / "data", other, tmp_path / "finest", EvaluateOptions(spacings_mm=[(1.0, 1.0, 4.0)], route="finest", surface=False))
    assert other.routes == {"finest", None}  # None: the upsampled scan, whose entry is forced
    assert oracle.routes == {None}


@pytest.mark.parametrize(
    ("options", "words"), [({"protocol": "paper"}, "spacings require protocol native"), ({"depths": [0]}, "exclude each other")]
)
def test_spacings_stand_alone(options, words, phantom_dataset, tmp_path):
    with pytest.raises(UsageError, match=words):
        evaluate(phantom_dataset, Oracle(), tmp_path / "out", EvaluateOptions(spacings_mm=[(1,) * 3, (2,) * 3], **options))


def test_an_evaluation_against_an_earlier_one(tmp_path):
    write_phantoms(tmp_path / "data", range(3))
    options = {"depths": [1, 2], "upsampled": False, "surface": False}
    one = evaluate(tmp_path / "data", Oracle(1), tmp_path / "one", EvaluateOptions(**options))
    two = evaluate(tmp_path / "data", Oracle(2), tmp_path / "two", EvaluateOptions(**options, against=tmp_path / "one"))
    comparison = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert two["comparison"] == comparison
    for row in comparison["per_resolution"]:
        differences = two["per_depth"][row["resolution"]]["dice"] - one["per_depth"][row["resolution"]]["dice"]
        assert row["difference"] == pytest.approx(differences)
        assert row["low"] < row["difference"] < row["high"]
    fresh = Oracle(1)
    for wrong in ({"depths": [1]}, {"names": ["phantom_000"]}):
        with pytest.raises(DataError, match="different"):
            evaluate(tmp_path / "data", fresh, tmp_path / "three", EvaluateOptions(**{**options, **wrong}, against=tmp_path / "one"))
    assert not fresh.asked  # the error is raised before the work


def test_what_failed_is_not_compared_and_the_rest_is_handed_on(tmp_path):
    write_phantoms(tmp_path / "data", range(2), 8.0)
    evaluate(tmp_path / "data", Oracle(1), tmp_path / "one", EvaluateOptions(depths=[0], surface=False))
    (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    with pytest.raises(SomeCasesFailed, match="1 of 2") as caught:
        evaluate(tmp_path / "data", Oracle(1), tmp_path / "two", EvaluateOptions(depths=[0], surface=False, against=tmp_path / "one"))
    assert "nothing was compared" in str(caught.value)
    assert caught.value.result == json.loads((tmp_path / "two" / "summary.json").read_text())
    assert not (tmp_path / "two" / "comparison.json").exists()


class Partial(Oracle):
    """Has engines only for depths 1 and 2."""

    runner = type("Runner", (), {"backend": "none", "entries": ((1, 1, 1), (2, 2, 2))})


def test_by_protocol_paper_a_partial_bundle_is_scored_at_the_depths_it_has(tmp_path):
    write_phantoms(tmp_path / "data", range(1))
    oracle = Partial()
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(protocol="paper", surface=False))
    assert list(summary["per_depth"]) == ["1", "2"]
    assert [entry for _, entry in oracle.asked] == [(1, 1, 1), (2, 2, 2)]
    with pytest.raises(UsageError, match="no engine for a depth") as caught:
        evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(protocol="paper", depths=[0, 1, 3]))
    assert "found: 0, 3" in str(caught.value)
    assert "expected: 1, 2" in str(caught.value)
    assert len(oracle.asked) == 2  # the error is raised before the work


def test_a_spacing_beyond_the_scan_is_refused_naming_both(tmp_path):
    write_phantoms(tmp_path / "data", range(1), 8.0)
    with pytest.raises(DataError, match="too large for the scan") as caught:
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(spacings_mm=[(1e5,) * 3], surface=False))
    words = str(caught.value)
    assert "found: 100000 mm" in words
    assert "32 x 32 x 32 mm" in words
    assert "case: phantom_000" in words
