import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from oracle import Oracle

from rarecli import Phantom, Predictor, Volume
from rarecli.core.config.calibration import Calibration, LabelRange
from rarecli.core.config.geometry import coarser_entry
from rarecli.core.imaging.regions import Region
from rarecli.core.imaging.restore import ConfidenceTally
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.jobs.progress import Noting, Silent
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Prediction
from rarecli.core.prediction.quality import Quality, assess, num_components, quality_words
from rarecli.core.prediction.regions import Where, predict_where


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu") as loaded:
        yield loaded


def confidence(slabs):
    tally = ConfidenceTally(3)
    for _ in tally.passing(slabs):
        pass
    return tally.confidence


def test_the_confidence_of_two_voxels():
    probabilities = np.array([[0.1, 0.6], [0.8, 0.3], [0.1, 0.1]])  # classes x voxels; class 1 is best in the first, class 2 nowhere
    logits = np.log(probabilities).astype(np.float32).reshape(3, 2, 1, 1)
    one, two = confidence([logits])
    assert one == pytest.approx(2 * 0.8 / (0.8 + 0.3 + 1))
    assert two is None


def test_sure_probabilities_expect_a_dice_of_one():
    classes = np.random.default_rng(0).integers(0, 3, (20, 5, 4))  # more planes than a slab
    logits = np.where(classes == np.arange(3).reshape(3, 1, 1, 1), 50, -50).astype(np.float32)
    assert confidence([logits]) == pytest.approx((1, 1))
    assert confidence(np.split(logits, [3, 7], axis=2)) == pytest.approx((1, 1))


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((7, 7, 7), dtype=bool)
    assert num_components(mask) == 0
    mask[1:3, 1:3, 1:3] = True
    mask[3, 3, 3] = True
    assert num_components(mask) == 1
    mask[5, 5, 5] = True
    assert num_components(mask) == 2


ISOTROPIC = [(depth,) * 3 for depth in range(4)]
ALL = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]


@pytest.mark.parametrize(
    ("entry", "entries", "expected"),
    [
        ((0, 0, 0), ISOTROPIC, (1, 1, 1)),
        ((0, 0, 0), [(0, 0, 0), (2, 2, 2)], (2, 2, 2)),
        ((3, 3, 3), ISOTROPIC, None),
        ((0, 0, 2), ALL, (1, 1, 3)),
        ((0, 0, 3), ALL, (1, 1, 3)),
        ((0, 0, 3), ISOTROPIC, (3, 3, 3)),
        ((3, 3, 3), ALL, None),
    ],
)
def test_the_next_coarser_entry(entry, entries, expected):
    assert coarser_entry(entry, entries, 1) == expected


def test_doubts_say_what_is_unusual():
    labels = {"head": LabelRange(volume_mm3=(1000, 2000), most_components=1), "tail": LabelRange(volume_mm3=(0, 500), most_components=2)}
    usual = Calibration(model="m", num_cases=4, least_confidence=0.8, spearman=0.5, labels=labels)
    fine = Quality({"head": 1000.0, "tail": 0.0}, {"head": 0.8, "tail": None}, {"head": 1, "tail": 0})
    assert fine.doubts(usual) == []
    odd = Quality({"head": 999.0, "tail": 600.0}, {"head": 0.79, "tail": 0.79}, {"head": 2, "tail": 2})
    assert odd.doubts(usual) == [
        "its confidence is 0.790; of 95 % of the validation scans it is at least 0.800",
        "its head has 0.999 mL; in the training scans it has 1 mL to 2 mL",
        "its head is in 2 parts; in the training scans in at most 1",
        "its tail has 0.6 mL; in the training scans it has 0 mL to 0.5 mL",
    ]
    assert odd.doubts(None) == []


def test_a_labels_file_in_place_of_a_scan_has_one_warning(predictor, tmp_path, monkeypatch):
    labels = {name: LabelRange(volume_mm3=(1e9, 2e9), most_components=1) for name in ("head", "tail")}
    known = Calibration(model="m", num_cases=4, least_confidence=1, spearman=0.5, labels=labels)
    monkeypatch.setitem(vars(predictor), "calibration", known)
    image, reference = Phantom(11).acquire(2.0)
    write_image(tmp_path / "scan.nii.gz", image.data[0], image)
    write_labels(tmp_path / "mask.nii.gz", reference.data[0], reference)
    reporter = Noting(Silent())
    predict([tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"], predictor, tmp_path / "out", reporter=reporter)
    warnings = {name: [one for one in reporter.warnings if one.startswith(name)] for name in ("scan", "mask")}
    assert warnings["mask"] == ["mask is unlike the training scans: it looks like a labels file, with the values 0, 1, 2"]
    assert len(warnings["scan"]) > 1  # a volume of a thousand litres
    assert not any("labels file" in one for one in warnings["scan"])


def test_the_agreement_is_the_dice_of_the_scan_seen_at_half_the_resolution(predictor):
    scan, _ = Phantom(11).acquire(1.0)
    fine = predictor.predict(scan)
    found = assess(predictor, scan, fine, thorough=True)
    assert found.against == (1, 1, 1)
    x, y, z = (size // 2 for size in scan.shape)
    blocks = scan.data[0].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    shift = np.diag([2.0, 2, 2, 1])
    shift[:3, 3] = 0.5
    coarse = predictor.predict(Volume(blocks[None], scan.affine @ shift)).labels
    for value, name in ((1, "head"), (2, "tail")):
        own = (fine.labels == value).reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
        least, most = (2 * (part & (coarse == value)).sum() / (part.sum() + (coarse == value).sum()) for part in (own > 0.5, own >= 0.5))
        assert min(least, most) - 0.03 <= found.agreement[name] <= max(least, most) + 0.03
    assert assess(predictor, scan, fine, thorough=False).agreement is None


def test_the_quality_does_not_depend_on_the_axes(predictor):
    one, two = (Phantom(11).acquire(2.0, axes)[0] for axes in ("RAS", "PIL"))
    first, second = (assess(predictor, scan, predictor.predict(scan), thorough=True) for scan in (one, two))
    assert first.agreement == second.agreement
    assert first.components == second.components
    assert first.volumes_mm3 == pytest.approx(second.volumes_mm3)


def test_the_deepest_entry_has_nothing_to_agree_with(predictor):
    scan, _ = Phantom(11).acquire(8.0)
    found = assess(predictor, scan, predictor.predict(scan), thorough=True)
    assert (found.against, found.agreement) == (None, None)
    assert found.components is not None


def test_only_a_calibrated_model_states_its_confidence():
    record = {"confidence": {"head": 0.9, "tail": 0.7, "body": None}, "agreement": None}
    assert quality_words(record, calibrated=True) == "; confidence 0.80"
    assert quality_words(record, calibrated=False) == ""


def test_the_quality_is_recorded_said_and_in_a_table(predictor, tmp_path):
    class Said:
        def __init__(self):
            self.lines = []

        def say(self, text):
            self.lines.append(text)

        warn = say

        def track(self, items, label, total, costs=None):
            yield from items

    for number in (0, 1):
        scan, _ = Phantom(number).acquire(4.0)
        write_image(tmp_path / "in" / f"{number}.nii.gz", scan.data[0], scan)
    said = Said()
    predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(quality=True), said)
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    assert [(row["case"], row["label"]) for row in rows] == [(case, label) for case in "01" for label in ("head", "tail")]
    for row in rows:
        record = records[row["case"]]
        quality = record["quality"]
        assert float(row["volume_mm3"]) == record["volumes_mm3"][row["label"]]
        assert int(row["components"]) == quality["components"][row["label"]]
        assert float(row["agreement"]) == quality["agreement"][row["label"]]
        assert quality["against"] == [3, 3, 3]
    line = next(line for line in said.lines if line.startswith("0: depth 2"))
    assert "confidence" not in line
    assert sum(text.startswith("confidence: not calibrated") for text in said.lines) == 1
    assert f"agreement with depth 3 {np.mean(list(records['0']['quality']['agreement'].values())):.2f}" in line
    assert line.endswith("; " + ", ".join(f"{row['label']} {float(row['volume_mm3']) / 1000:.3g} mL" for row in rows[:2]))


def in_region(predictor, scan, roi):
    choice = RouteChoice(entries=predictor.runner.entries)
    return predict_where(predictor, scan, Where(roi), choice, pad=True, probabilities=False)


class BrightIsHead(Oracle):
    """Labels what is brighter than a half, at any entry."""

    def segment(self, volume, choice, **options):
        labels = (volume.data[0] > 0.5).astype(np.uint8)
        return Prediction(labels, volume.affine, choice.entry or (0, 0, 0), "", (1, 1, 1), None, 0.0, confidence=(1.0, None))


@pytest.mark.parametrize("axes", [np.diag([1.0, 1, 1, 1]), np.array([[0, 0, -1.0, 9], [1, 0, 0, 0], [0, -1, 0, 9], [0, 0, 0, 1]])])
@pytest.mark.parametrize("masked", [True, False])
def test_the_agreement_of_a_region_is_that_within_it(axes, masked):
    """Two cubes in the region, of which the prediction has one and a half; a third cube outside, which it does not have."""
    data = np.zeros((32, 32, 32), dtype=np.float32)
    first, second, third = (slice(0, 8),) * 3, (slice(16, 24),) * 3, (slice(0, 8), slice(24, 32), slice(0, 8))
    for cube in (first, second, third):
        data[cube] = 1
    scan, oracle = Volume(data[None], axes), BrightIsHead()
    found = oracle.segment(scan, RouteChoice())
    found.labels[third] = 0
    found.labels[16:20, 16:24, 16:24] = 0
    without = assess(oracle, scan, found, thorough=True).agreement
    mask = np.ones_like(found.labels)
    mask[third] = 0
    region = Region((slice(0, 32),) * 3, mask) if masked else Region((slice(0, 32), slice(0, 24), slice(0, 32)))
    within = assess(oracle, scan, replace(found, region=region), thorough=True).agreement
    assert without["head"] == pytest.approx(2 * 1.5 / (3 + 1.5))
    assert within["head"] == pytest.approx(2 * 1.5 / (2 + 1.5))


class CornerIsHead(Oracle):
    """Labels one corner of a scan as head and all else as tail, and is sure of both."""

    def segment(self, volume, choice, **options):
        labels = np.full(volume.shape, 2, dtype=np.uint8)
        labels[:8, :8, :8] = 1
        return Prediction(labels, volume.affine, (0, 0, 0), "", (1, 1, 1), None, 0.0, confidence=(0.9, 0.8))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((slice(0, 8), slice(0, 8), slice(0, 8)), (0.9, None)),
        ((slice(0, 8), slice(0, 8), slice(0, 9)), (0.9, 0.8)),
        ((slice(8, 32), slice(0, 8), slice(0, 8)), (None, 0.8)),
    ],
)
def test_a_label_that_is_found_outside_of_the_region_alone_has_no_confidence(box, expected):
    scan, oracle = Phantom(4).acquire(1.0)[0], CornerIsHead()
    assert in_region(oracle, scan, box).confidence == pytest.approx(expected)


def test_a_volume_in_a_region_is_not_doubted(predictor, tmp_path, monkeypatch):
    scan, _ = Phantom(4).acquire(1.0)
    labels = {name: LabelRange(volume_mm3=(1e9, 2e9), most_components=9) for name in ("head", "tail")}
    known = Calibration(model="m", num_cases=4, least_confidence=0, spearman=0.5, labels=labels)
    monkeypatch.setitem(vars(predictor), "calibration", known)
    write_image(tmp_path / "a.nii.gz", scan.data[0], scan)
    for where, num in ((Where(), 2), (Where((slice(8, 24),) * 3), 0)):
        record = predict([tmp_path / "a.nii.gz"], predictor, tmp_path / f"{num}.nii.gz", PredictOptions(where=where))
        assert len(record["cases"]["a"]["quality"]["doubts"]) == num
