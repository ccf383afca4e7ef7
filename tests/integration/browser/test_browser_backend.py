"""`rare benchmark --backends browser`: the engines of a bundle in a page in headless chromium."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rarecli.cli import app
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


def test_a_benchmark_measures_a_page_from_the_first_export_to_the_report(browser_installed, open_page, tmp_path):
    command = "benchmark --suite smoke --backends onnx,browser --depths 1 --no-upsampled -o"
    assert CliRunner().invoke(app, [*command.split(), str(tmp_path / "t")], catch_exceptions=False).exit_code == 0
    rows = {row["backend"]: row for row in json.loads((tmp_path / "t" / "results.json").read_text())["rows"]}
    assert {backend: row["status"] for backend, row in rows.items()} == {"onnx": "ok", "browser": "ok"}
    # the suite's network is random, so every backend is compared with PyTorch
    assert 0 < rows["browser"]["max_rel_off_torch"] < 1e-4
    assert {"copy_in", "compute", "copy_out"} < set(rows["browser"]["statistics"])
    assert rows["browser"]["cold_start_ms"] > 0
    assert rows["browser"]["peak_memory_mb"] > rows["onnx"]["peak_memory_mb"]  # a browser is more than a library
    opened = open_page(tmp_path / "t" / "report.html", bypass_csp=True)
    assert opened.page.locator("tr", has_text="browser").filter(has_text="ok").count() == 1
    opened.require_quiet()
    opened.require_accessible()
