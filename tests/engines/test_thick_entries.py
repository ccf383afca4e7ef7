"""Engines whose axes enter at depths of their own, and that take images of any size."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

from rarecli.core.benchmarking.suites import write_random_run
from rarecli.core.config.geometry import entry_name, entry_set, isotropic
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.errors import UsageError
from rarecli.core.info.info import info

ENTRIES = entry_set("thick", 3)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("entry", ENTRIES, ids=entry_name)
def test_every_engine_says_what_torch_says_at_any_size(thick_run, thick_bundle, entry, backend):
    rules, network = open_model(thick_run, "torch", "cpu")
    _, engines = open_model(thick_bundle, backend, "cpu")
    least = rules.entry(entry).min_shape
    rng = np.random.default_rng(0)
    with network, engines:
        for more in ((0, 0, 0), (1, 2, 3), (6, 0, 1)):
            image = rng.random((2, rules.spec.network.in_channels, *(np.array(least) + more)), dtype=np.float32)
            expected = network.run(image, entry)
            np.testing.assert_allclose(engines.run(image, entry), expected, atol=1e-4 * np.abs(expected).max())


def test_the_entries_are_in_the_manifest_with_what_they_take(thick_bundle):
    manifest = load_manifest(thick_bundle)
    assert manifest.entries == ENTRIES
    assert manifest.routing.by == "nearest"
    num_levels = manifest.spec.network.num_levels
    for engine in manifest.engines:
        assert engine.file == f"{entry_name(engine.entry)}.onnx"
        assert engine.grid_spacing_mm == tuple(2.0**depth for depth in engine.entry)
        assert engine.divisors == (1, 1, 1)
        # two voxels are left in the bottleneck
        assert engine.min_shape == tuple(2 ** (num_levels - depth) + 1 for depth in engine.entry)


def test_kernels_of_coarse_axes_are_computed_from_the_shared_weights(thick_bundle):
    """By hand: each level where an axis is coarse has 2 convolutions on the way down, an upsampling and 1 convolution on the way up."""
    for entry in ENTRIES:
        graph = onnx.load(thick_bundle / f"{entry_name(entry)}.onnx", load_external_data=False).graph
        operators = Counter(node.op_type for node in graph.node)
        assert operators["MatMul"] == 4 * (max(entry) - min(entry))
        assert operators["Reshape"] == 2 * operators["MatMul"]
        held = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in held) < 20_000
        assert {tuple(tensor.dims) for tensor in held} <= {(27, 27), (3,), (5,)}
    assert sum(path.stat().st_size for path in thick_bundle.glob("entry_*.onnx")) < 1_000_000 * len(ENTRIES) / 22


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_without_gateways_the_engines_of_coarse_scans_say_what_torch_says(tmp_path, thick_run, backend):
    spec = open_model(thick_run, "torch", "cpu")[0].spec
    run = tmp_path / "run"
    write_random_run(spec.model_copy(update={"network": spec.network.model_copy(update={"gateways": False})}), run)
    export(run, tmp_path / "bundle", ExportOptions(entries="isotropic", check=False))
    rules, network = open_model(run, "torch", "cpu")
    _, engines = open_model(tmp_path / "bundle", backend, "cpu")
    rng = np.random.default_rng(0)
    with network, engines:
        for depth in range(3):
            operators = Counter(node.op_type for node in onnx.load(tmp_path / f"bundle/entry_{depth}_{depth}_{depth}.onnx").graph.node)
            assert operators["MatMul"] == 4 * depth  # the levels above run, with adapted kernels
            entry = isotropic(depth)
            image = rng.random((1, rules.spec.network.in_channels, *np.add(rules.entry(entry).min_shape, (0, 1, 2))), dtype=np.float32)
            expected = network.run(image, entry)
            np.testing.assert_allclose(engines.run(image, entry), expected, atol=1e-4 * np.abs(expected).max())


def test_engines_adapt_kernels_when_they_are_opened_and_never_again(thick_bundle, tmp_path):
    graph = thick_bundle / f"{entry_name((0, 0, 2))}.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    left = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node)
    assert left["Conv"] > 0
    assert not left["MatMul"] + left["Reshape"]
    model = openvino.Core().read_model(graph)
    model.reshape([1, 1, 19, 20, 7])
    compiled = openvino.Core().compile_model(model, "CPU").get_runtime_model()
    kinds = Counter(op.get_rt_info()["layerType"].astype(str) for op in compiled.get_ops())
    assert kinds["Convolution"] + kinds["Deconvolution"] > 0
    assert not kinds["MatMul"] + kinds["FullyConnected"]


def test_entries_that_the_model_lacks_are_refused(run, thick_run, tmp_path):
    with pytest.raises(UsageError, match="no such entry") as caught:
        export(run, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0), (0, 0, 2)]))
    assert "entry 0,0,2" in str(caught.value)
    with pytest.raises(UsageError, match="no such entry"):
        export(thick_run, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 3)]))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_entry_passes_its_gate_and_vectors_cover_each_direction(thick_run, tmp_path):
    manifest = export(thick_run, tmp_path / "bundle", ExportOptions(entries="thick"))
    assert [vector.entry for vector in manifest.conformance] == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 0, 0), (0, 2, 0), (0, 0, 2)]
    assert all(engine.parity.large_max_rel < 1e-4 for engine in manifest.engines)
    odd = [shape for engine in manifest.engines for shape in engine.parity.shapes if any(size % 2 for size in shape)]
    assert len(odd) >= len(manifest.engines)
    facts = info(tmp_path / "bundle", verify=True, backend="onnx")
    assert sum("labels correct" in line for line in facts["verified"]) == 6
