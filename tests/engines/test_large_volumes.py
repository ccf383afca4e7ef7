"""Engines at the sizes of heads, most of them constant background, where sums in float32 go wrong."""

from pathlib import Path

import numpy as np
import pytest

from rarecli.core.config.geometry import isotropic
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.probes import background_image

SHAPES = [(160, 192, 144), (240, 240, 144)]
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the image's largest logit."""


@pytest.fixture(scope="module")
def whole_precision(tmp_path_factory):
    """The built-in model in fp32."""
    bundle = tmp_path_factory.mktemp("bundles") / "bundle"
    export(Path("hippocampus"), bundle, ExportOptions(check=False))
    return bundle


@pytest.fixture(scope="module")
def known(whole_precision):
    """Image and logits of PyTorch by shape and depth, kept for the last pair asked for."""
    kept = {}

    def answer(shape, depth):
        if (shape, depth) not in kept:
            kept.clear()
            rules, network = open_model(whole_precision, "torch", "cpu")
            x, y, z = (size >> depth for size in shape)
            image = background_image(rules.spec, rules.entry(isotropic(depth)).enlarged((x, y, z)))
            with network:
                kept[shape, depth] = image, network.run(image, isotropic(depth))
        return kept[shape, depth]

    return answer


def compare(bundle, answer, backend, depth, num_threads):
    """Largest difference of a logit as a share of the largest; voxels whose label differs, and those of them that are no near tie."""
    image, expected = answer
    _, runner = open_model(bundle, backend, "cpu", num_threads)
    with runner:
        found = runner.run(image, isotropic(depth))
    largest = np.abs(expected).max()
    worse, best = np.sort(expected, axis=1)[:, -2:].swapaxes(0, 1)
    differs = found.argmax(axis=1) != expected.argmax(axis=1)
    return np.abs(found - expected).max() / largest, differs.sum(), (differs & (best - worse > 2 * TOLERANCE * largest)).sum()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("depth", range(4))
def test_engines_say_what_torch_says_on_large_volumes(whole_precision, known, shape, depth):
    answer = known(shape, depth)
    assert 0.75 < (answer[0] == 0).mean() < 0.85
    assert len(np.unique(answer[1].argmax(axis=1))) > 1
    for backend in ("openvino", "onnx"):
        for num_threads in (1, 2):
            share, _, wrong = compare(whole_precision, answer, backend, depth, num_threads)
            assert share <= TOLERANCE, (backend, num_threads)
            assert wrong == 0, (backend, num_threads)
