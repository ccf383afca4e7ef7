"""Python follows the numbers and names of a manifest, as every other consumer does, whatever they were when it was exported."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from manifest_changes import CHANGES, ISOTROPIC, change, changed_and_before, scan_of

from rarecli import Predictor
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.errors import ModelError
from rarecli.core.jobs.files import sha256

sys.path.insert(0, str(Path(__file__).parents[2] / "export" / "python"))
import consumer


def predict(bundle, scan, backend="onnx"):
    data, spacing = scan
    with Predictor(bundle, device="cpu", backend=backend) as predictor:
        return predictor.predict(data, np.diag([*spacing, 1.0]), probabilities=True)


@pytest.mark.parametrize("field", CHANGES)
def test_fault_56_python_follows_the_manifest_as_another_consumer_does(bundle, tmp_path, field):
    """Python follows it as the other consumers do; nothing is derived again."""
    changed, plain = changed_and_before(bundle, tmp_path, field)
    scan = scan_of(CHANGES[field][2])
    known, found = predict(plain, scan), predict(changed, scan)
    assert np.abs(found.probabilities - known.probabilities).max() > 1e-3  # the field decides something
    expected = consumer.segment(*scan, changed)
    uncertain = np.sort(found.probabilities, axis=0)
    uncertain = uncertain[-1] - uncertain[-2] < 1e-3
    assert uncertain.mean() < 0.02
    assert np.count_nonzero((found.labels != expected) & ~uncertain) == 0


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_every_backend_follows_the_manifest(bundle, tmp_path, backend):
    edits = {"window.overlap": 0.1, "routing.tolerance": 0.4, "engines.1.patch_shape": [24, 16, 32], "window.padding_value": 0.7}
    changed, scan = change(bundle, tmp_path / "changed", edits), scan_of(ISOTROPIC)
    np.testing.assert_allclose(predict(changed, scan, backend).probabilities, predict(changed, scan).probabilities, atol=1e-3)


def rename(bundle, kind):
    """Give the input or output of depth 1 another name, in its graph and, with the new hash, in the manifest."""
    file = bundle / "entry_1_1_1.onnx"
    graph = onnx.load(file, load_external_data=False)
    tensors = graph.graph.input if kind == "input" else graph.graph.output
    old, new = tensors[0].name, f"my {kind}"
    tensors[0].name = new
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    onnx.save(graph, file)
    content = json.loads((bundle / "manifest.json").read_text())
    content["engines"][1]["sha256"] = sha256(file)
    content["engines"][1][kind]["name"] = new
    (bundle / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["input", "output"])
def test_the_manifest_names_the_tensors(bundle, tmp_path, backend, kind):
    scan = scan_of(ISOTROPIC)
    renamed = change(bundle, tmp_path / "renamed", {})
    rename(renamed, kind)
    np.testing.assert_array_equal(predict(renamed, scan, backend).labels, predict(bundle, scan, backend).labels)
    wrong = change(bundle, tmp_path / "wrong", {f"engines.1.{kind}.name": "other"})
    with pytest.raises(ModelError, match="no tensor of the name"):
        predict(wrong, scan, backend)


def test_routing_to_other_entries_than_those_of_the_engines_is_refused(bundle, tmp_path):
    with pytest.raises(ModelError, match="manifest"):
        load_manifest(change(bundle, tmp_path / "bundle", {"routing.entries": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}))


def test_models_that_follow_other_rules_are_no_ensemble(bundle, tmp_path):
    changed = change(bundle, tmp_path / "changed", {"window.overlap": 0.1})
    with pytest.raises(ModelError, match="do not match") as caught:
        Predictor([bundle, changed], backend="onnx")
    assert "field: window" in str(caught.value)
