"""The consumer `export/python/consumer.py`: a second implementation from export/README.md with json, numpy and onnxruntime."""

import ast
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from rarecli import Phantom, Predictor
from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    ZScoreNormalisation,
)
from rarecli.core.errors import DataError
from rarecli.core.imaging.bounds import require_affordable
from rarecli.core.imaging.normalisation import normalise

FOLDER = Path(__file__).parents[2] / "export" / "python"
sys.path.insert(0, str(FOLDER))
import consumer  # noqa: E402

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "routing_cases.json").read_text())
TRAINED = GOLDEN["trained_spacing_mm"]


def engines_of(entries):
    return [{"entry": entry, "grid_spacing_mm": [mm * 2.0**depth for mm, depth in zip(TRAINED, entry, strict=True)]} for entry in entries]


def require_route(case, entry, entries, **rule):
    """Assert that the consumer routes a golden case to its entry and resamples the same axes."""
    rest = {"trained_spacing_mm": TRAINED, "tolerance": GOLDEN["tolerance"], "as_is_anisotropy_octaves": 0.2, "rounding_slack": 1e-6}
    engine, zooms = consumer.route(case["spacing_mm"], engines_of(entries), rest | rule)
    assert engine["entry"] == entry
    ratios = [mm / grid for mm, grid in zip(case["spacing_mm"], engine["grid_spacing_mm"], strict=True)]
    assert zooms == {axis: pytest.approx(ratios[axis - 1]) for axis in (1, 2, 3) if case["resampled"][axis - 1]}


@pytest.mark.parametrize("case", [*GOLDEN["cases"], *GOLDEN["as_is_cases"]], ids=lambda case: case["why"])
def test_the_finest_axis_follows_the_golden_cases(case):
    as_is = GOLDEN["as_is_octaves"] if case in GOLDEN["as_is_cases"] else 0
    require_route(case, [case["depth"]] * 3, [[depth] * 3 for depth in range(4)] + [[0, 0, 3]], by="finest", as_is_octaves=as_is)


@pytest.mark.parametrize("case", [*GOLDEN["nearest"]["cases"], *GOLDEN["nearest"]["other_entries"]], ids=lambda case: case["why"])
def test_the_nearest_entry_follows_the_golden_cases(case):
    entries = case.get("entries", GOLDEN["nearest"]["entries"])
    for order in (entries, entries[::-1]):  # what a manifest lists first is no reason
        require_route(case, case["entry"], order, by="nearest", as_is_octaves=GOLDEN["nearest"]["as_is_octaves"])


# spacing, size, entry, and the axes that are resampled
THICK = [
    ((1.0, 1.0, 4.0), (35, 50, 9), (0, 0, 2), ""),
    ((4.0, 1.0, 1.0), (9, 50, 35), (2, 0, 0), ""),
    ((2.0, 2.0, 6.0), (35, 50, 9), (1, 1, 2), "z"),  # wants (1, 1, 3): 1.5 of the grid of depth 2
    ((1.0, 1.3, 3.0), (35, 50, 9), (0, 0, 2), "z"),  # y is 0.38 octaves off, z 0.42
    ((1.0, 8.0, 0.5), (33, 3, 40), (0, 2, 0), "yz"),
]


@pytest.mark.parametrize(("spacing", "shape", "entry", "resampled"), THICK)
def test_thick_slices_get_the_labels_of_rare_predict(thick_bundle, spacing, shape, entry, resampled):
    scan, _ = Phantom(5, tuple(mm * size for mm, size in zip(spacing, shape, strict=True))).acquire(spacing)
    assert scan.shape == shape
    with Predictor(thick_bundle, backend="onnx") as predictor:
        expected = predictor.predict(scan, probabilities=True)
    assert expected.entry == entry
    assert "".join(axis for axis, zoom in zip("xyz", expected.zoom, strict=True) if zoom != 1) == resampled
    assert 0.2 < np.mean(expected.labels == 0) < 0.8
    second, best = np.sort(expected.probabilities, axis=0)[-2:]
    differs = consumer.segment(scan.data, spacing, thick_bundle) != expected.labels
    assert np.count_nonzero(differs & (best - second > 1e-4)) == 0


RULES = [
    ZScoreNormalisation(),
    NoNormalisation(),
    PercentileNormalisation(lower=0, upper=100),
    CtNormalisation(lower=(-1, 0, 2), upper=(1, 9, 3), mean=(0, 1, 2), std=(1, 2, 3)),
    PerChannelNormalisation(
        rules=(ZScoreNormalisation(), CtNormalisation(lower=(-1,), upper=(1,), mean=(0.5,), std=(2,)), PercentileNormalisation())
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_intensities_are_normalised_as_by_rare_predict(rule):
    image = np.random.default_rng(0).normal(3, 2, (3, 7, 8, 9)).astype(np.float32)
    image[2, 1:] = 4
    facts = json.loads(rule.model_dump_json())
    found = [consumer.normalise(channel.astype(np.float64), facts, index) for index, channel in enumerate(image)]
    np.testing.assert_allclose(normalise(image, rule), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", range(4))
def test_the_manifest_and_the_readme_suffice_for_a_consumer(bundle, depth, monkeypatch):
    manifest = json.loads((bundle / "manifest.json").read_text())
    vector = next(vector for vector in manifest["conformance"] if vector["entry"] == [depth] * 3)
    scan = nib.load(bundle / vector["scan"]["file"])
    orientation = nib.orientations.io_orientation(scan.affine)
    ras = scan.as_reoriented(orientation)
    images = []
    slide = consumer.slide
    monkeypatch.setattr(consumer, "slide", lambda image, *rest: images.append(image) or slide(image, *rest))
    labels = consumer.segment(np.asarray(ras.dataobj)[None], np.linalg.norm(ras.affine[:3, :3], axis=0), bundle)
    np.testing.assert_allclose(images[0], load_file(bundle / vector["arrays"]["file"])["image"], atol=1e-5)
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation)
    labels = nib.orientations.apply_orientation(labels, back)
    expected = np.asarray(nib.load(bundle / vector["labels"]["file"]).dataobj)
    assert np.count_nonzero(expected) > 0
    assert np.count_nonzero(labels != expected) <= 1e-4 * expected.size  # voxels where two logits are equal to the last bits


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((1, 163842, 1, 1), (1, 1, 1), "too thin for its length"),
        ((1, 9, 9, 9), (1, 1, 1e-8), "too far from the grid"),
        ((1, 100_000, 100_000, 1000), (1, 1, 1), "this machine has"),
    ],
)
def test_what_costs_too_much_is_refused_before_anything_is_allocated(bundle, shape, spacing, words):
    image = np.broadcast_to(np.float32(0), shape)
    with pytest.raises(ValueError, match=words):
        consumer.segment(image, np.array(spacing, dtype=float), bundle)
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(DataError):
        require_affordable(shape[1:], 1, predictor.rules.route(spacing), predictor.rules)


def test_this_consumer_is_short_and_uses_nothing_of_ours():
    source = (FOLDER / "consumer.py").read_text()
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 105
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert modules == {"json", "math", "itertools", "pathlib", "numpy", "onnxruntime"}
