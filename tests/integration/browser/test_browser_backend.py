"""`rare benchmark --backends browser`: the engines of a bundle in a page in headless chromium."""

import numpy as np
import pytest

from rarecli.core.benchmarking.browser_runner import BrowserRunner
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.open_model import open_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def in_page(thick_bundle, browser_installed):
    with BrowserRunner(thick_bundle) as runner:
        yield runner


@pytest.mark.parametrize(("entry", "shape"), [((0, 0, 0), (48, 96, 64)), ((0, 0, 1), (32, 16, 16)), ((1, 1, 1), (16, 32, 16))])
def test_a_page_gives_the_logits_and_classes_of_onnxruntime(in_page, thick_bundle, entry, shape):
    num_channels = Bundle(thick_bundle).manifest.spec.network.in_channels
    images = np.random.default_rng(0).random((2, num_channels, *shape), dtype=np.float32)
    with open_model(thick_bundle, "onnx", "cpu")[1] as native:
        expected = native.run(images, entry)
    found = in_page.run(images, entry)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    classes = in_page.fetch(in_page.best(in_page.forward(in_page.put(images), entry)))
    np.testing.assert_array_equal(classes, found.argmax(axis=1))
