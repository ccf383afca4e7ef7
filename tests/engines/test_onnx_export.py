import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from rarecli import Predictor
from rarecli.core.config.geometry import entry_name, isotropic
from rarecli.core.engines import onnx_export, parity
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.onnx_export import EntryPoint
from rarecli.core.engines.open_model import open_model
from rarecli.core.errors import ModelError, UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "onnx_operators.json"


@pytest.mark.parametrize("depth", range(4))
def test_engines_say_what_torch_says_at_shapes_and_batches_never_traced(run, bundle, depth):
    step = 16 // 2**depth
    rng = np.random.default_rng(depth)
    _, engines = open_model(bundle, "onnx")
    _, network = open_model(run, device="cpu")
    with engines, network:
        for batch, shape in ((1, (2, 2, 2)), (3, (3, 2, 5)), (2, (2, 4, 2))):
            image = rng.random((batch, 1, *(step * n for n in shape)), dtype=np.float32)
            np.testing.assert_allclose(engines.run(image, isotropic(depth)), network.run(image, isotropic(depth)), atol=1e-4)


@pytest.mark.parametrize("depth", range(4))
def test_operators_are_those_of_the_golden_file(bundle, depth):
    # by hand: a block has a convolution, a norm and a LeakyReLU per layer; entering one level deeper saves an encoder and a decoder block
    graph = onnx.load(bundle / f"{entry_name(isotropic(depth))}.onnx", load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    assert dict(operators) == json.loads(GOLDEN.read_text())[str(depth)]


def test_a_graph_tells_nothing_of_this_machine_and_holds_no_weights(bundle):
    for depth in range(4):
        content = (bundle / f"{entry_name(isotropic(depth))}.onnx").read_bytes()
        assert not re.search(rb"site-packages|/root|/home|/tmp|\.py\b", content)
        assert len(content) < 100_000
        onnx.checker.check_model(str(bundle / f"{entry_name(isotropic(depth))}.onnx"), full_check=True)
        graph = onnx.load(bundle / f"{entry_name(isotropic(depth))}.onnx", load_external_data=False)
        props = {prop.key: json.loads(prop.value) for prop in graph.metadata_props}
        assert props["rare.entry"] == [depth] * 3
        assert props["rare.labels"] == ["background", "head", "tail"]


def test_a_consumer_needs_json_numpy_and_onnxruntime_alone(bundle, run):
    # everything used here is in the manifest
    manifest = json.loads((bundle / "manifest.json").read_text())
    rng = np.random.default_rng(0)
    for engine in manifest["engines"]:
        session = onnxruntime.InferenceSession(bundle / engine["file"])
        image = rng.random((1, len(manifest["spec"]["plan"]["channel_names"]), *engine["patch_shape"]), dtype=np.float32)
        logits = session.run([engine["output"]["name"]], {engine["input"]["name"]: image})[0]
        assert logits.shape == (1, len(manifest["spec"]["plan"]["label_names"]), *engine["patch_shape"])
        _, network = open_model(run, device="cpu")
        with network:
            np.testing.assert_allclose(logits, network.run(image, tuple(engine["entry"])), atol=1e-4)


def test_the_shared_weights_are_the_runs(bundle, run):
    mine, theirs = load_file(bundle / "weights.safetensors"), load_file(run / "weights.safetensors")
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    assert load_manifest(bundle).spec.network.num_filters == 4
    with Predictor(bundle, backend="torch") as predictor:
        assert predictor.runner.backend == "torch"


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["entry_1_1_1.onnx", "weights.safetensors"])
def test_an_altered_or_missing_file_is_named(bundle, tmp_path, name, backend):
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in bundle.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    image = np.zeros((1, 1, 16, 16, 16), dtype=np.float32)
    for problem in ("changed", "missing"):
        _, engines = open_model(copy, backend)
        with engines, pytest.raises(ModelError, match=problem) as caught:
            engines.run(image, (1, 1, 1))
        assert name in str(caught.value)
        (copy / name).unlink(missing_ok=True)


def test_a_failed_gate_writes_nothing(run, tmp_path, monkeypatch):
    class Wrong(EntryPoint):
        def forward(self, image, weights):
            logits = super().forward(image, weights)
            return logits + 0.01 * torch.nn.functional.leaky_relu(logits, 3.0)

    monkeypatch.setattr(onnx_export, "EntryPoint", Wrong)
    monkeypatch.setattr(onnx_export, "SHAPE_FREE_OPS", onnx_export.SHAPE_FREE_OPS | {"Add", "Mul"})
    with pytest.raises(ModelError, match="does not agree with PyTorch"):
        export(run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)], self_contained=True))
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_may_hold_a_size_is_refused(run, tmp_path, monkeypatch):
    class Resizing(EntryPoint):
        def forward(self, image, weights):
            return torch.nn.functional.interpolate(super().forward(image, weights), scale_factor=2.0, mode="trilinear")

    monkeypatch.setattr(onnx_export, "EntryPoint", Resizing)
    with pytest.raises(ModelError, match="operator that may hold a size"):
        export(run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)]))


def test_depths_can_be_chosen_and_unknown_ones_are_refused(run, tmp_path):
    manifest = export(run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)]))
    assert [engine.entry for engine in manifest.engines] == [(3, 3, 3)]
    assert (manifest.engines[0].divisors, manifest.engines[0].min_shape) == ((2, 2, 2), (4, 4, 4))
    with Predictor(tmp_path / "bundle") as predictor:
        # the only engine takes scans of every spacing, as the manifest's rule says
        assert predictor.predict(np.zeros((32, 32, 32)), np.eye(4)).entry == (3, 3, 3)
        with pytest.raises(UsageError, match="no such entry"):
            predictor.predict(np.zeros((32, 32, 32)), np.eye(4), depth=0)
    with pytest.raises(UsageError, match="no such entry"):
        export(run, tmp_path / "other", ExportOptions(entries=[(4, 4, 4)]))


def test_parity_is_measured_on_three_shapes_with_one_never_traced(bundle, run):
    spec = load_manifest(bundle).spec
    for depth in range(4):
        step = 16 // 2**depth
        traced = (2 * step, 3 * step, 4 * step)
        shapes = load_manifest(bundle).engine(isotropic(depth)).parity.shapes
        assert len(set(shapes)) == 3
        assert traced not in shapes
        assert spec.patch_shape(isotropic(depth)) in shapes
    assert parity.RELATIVE_TOLERANCE["fp32"] <= 1e-3


def test_other_things_at_the_output_are_left_alone(run, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a bundle"):
        export(run, tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"
