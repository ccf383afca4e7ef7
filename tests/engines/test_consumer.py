"""The consumer `export/python/consumer.py`: a second implementation from export/README.md with json, numpy and onnxruntime."""

import ast
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from rarecli import Predictor
from rarecli.core.errors import DataError
from rarecli.core.imaging.bounds import require_affordable

FOLDER = Path(__file__).parents[2] / "export" / "python"
sys.path.insert(0, str(FOLDER))
import consumer  # noqa: E402


@pytest.mark.parametrize("depth", range(4))
def test_the_manifest_and_the_readme_suffice_for_a_consumer(bundle, depth, monkeypatch):
    manifest = json.loads((bundle / "manifest.json").read_text())
    vector = next(vector for vector in manifest["conformance"] if vector["depth"] == depth)
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
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 80
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert modules == {"json", "math", "itertools", "pathlib", "numpy", "onnxruntime"}
