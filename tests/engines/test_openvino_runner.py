"""OpenVINO compiles an entry for its patch and for all other sizes. The model is a built-in one, which takes any size."""

from pathlib import Path

import numpy as np

from rarecli.core.engines import openvino_runner
from rarecli.core.engines.open_model import open_model

MODEL = Path("hippocampus")
ENTRY = (2, 2, 2)


def test_a_patch_and_all_other_sizes_are_compiled_once_each_and_those_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(openvino_runner, "_MOST_COMPILED", 2)
    rules, engines = open_model(MODEL, "openvino", "cpu", 1)
    patch = rules.entry(ENTRY).patch_shape
    with engines:
        for shape in ((6, 7, 8), patch, (8, 6, 7), (9, 9, 9)):
            engines.run(np.zeros((1, 1, *shape), dtype=np.float32), ENTRY)
        assert list(engines._requests) == [(ENTRY, patch), (ENTRY, None)]
        engines.run(np.zeros((1, 1, 5, 6, 7), dtype=np.float32), (3, 3, 3))
        assert list(engines._requests) == [(ENTRY, None), ((3, 3, 3), None)]


def test_a_scan_gets_the_same_logits_whatever_was_predicted_before():
    rng = np.random.default_rng(0)
    images = [rng.random((batch, 1, *shape), dtype=np.float32) for batch, shape in ((1, (6, 7, 8)), (2, (9, 6, 7)), (1, (12, 9, 8)))]
    found = []
    for order in (images, images[::-1]):
        _, engines = open_model(MODEL, "openvino", "cpu", 1)
        with engines:
            found.append({image.shape: engines.run(image, ENTRY) for image in order})
    for shape, logits in found[0].items():
        np.testing.assert_array_equal(found[1][shape], logits)


def test_both_compiled_models_of_an_entry_say_the_same():
    rules, engines = open_model(MODEL, "openvino", "cpu", 1)
    patch = np.random.default_rng(0).random((1, 1, *rules.entry(ENTRY).patch_shape), dtype=np.float32)
    with engines:
        alone, twice = engines.run(patch, ENTRY), engines.run(np.concatenate([patch, patch]), ENTRY)
    for logits in twice:
        np.testing.assert_allclose(logits, alone[0], atol=1e-4 * np.abs(alone).max())
