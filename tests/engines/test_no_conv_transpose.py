"""`rare export --no-conv-transpose`: ordinary bundles whose graphs have no ConvTranspose."""

import json
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest

from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.engines.bundle import Bundle, load_manifest
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.page_graphs import page_graph, unpack_weights, write_page_graphs
from rarecli.core.engines.rewriting import depth_to_space
from rarecli.core.engines.tensorrt_build import build_plan, load_tensorrt, profile_for
from rarecli.core.errors import ModelError
from rarecli.core.info.info import info
from rarecli.core.jobs.progress import Silent

sys.path.insert(0, str(Path(__file__).parents[2] / "export" / "python"))
import consumer

ENTRIES = ((1, 1, 1), (3, 3, 3))


@pytest.fixture(scope="module")
def rewritten(run, tmp_path_factory):
    """Two entries of the run, checked and with conformance vectors."""
    output = tmp_path_factory.mktemp("rewritten") / "bundle"
    export(run, output, ExportOptions(entries=ENTRIES, conv_transpose=False))
    return output


def graphs_of(bundle):
    return {path.name: onnx.load(path, load_external_data=False).graph for path in bundle.rglob("*.onnx")}


def operators(graph):
    return Counter(node.op_type for node in graph.node)


def require_torch_s_logits(run, bundle, entry, more, backend="onnx"):
    """Assert that an engine gives the logits of PyTorch within the tolerance of the manifest, on two images of a size never traced."""
    rules, network = open_model(run, "torch", "cpu")
    _, engines = open_model(bundle, backend, "cpu")
    shape = np.array(rules.entry(entry).min_shape) + np.array(more) * rules.entry(entry).divisors
    image = np.random.default_rng(0).random((2, rules.spec.network.in_channels, *shape), dtype=np.float32)
    with network, engines:
        expected, found = network.run(image, entry), engines.run(image, entry)
    tolerance = {"fp32": 1e-4, "fp16": 5e-3}[load_manifest(bundle).precision]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_no_graph_has_one_and_the_manifest_says_so(rewritten, bundle):
    assert len(graphs_of(rewritten)) == 2
    for name, graph in graphs_of(rewritten).items():
        kept = operators(onnx.load(bundle / name, load_external_data=False).graph)
        assert kept["ConvTranspose"] == 4 - int(name[6])  # by hand: one per level above the bottleneck, at level 4, from the entry on
        assert operators(graph)["ConvTranspose"] == 0
        assert operators(graph)["Conv"] == kept["Conv"] + kept["ConvTranspose"]
    assert json.loads((rewritten / "manifest.json").read_text())["conv_transpose"] is False
    assert "conv_transpose" not in json.loads((bundle / "manifest.json").read_text())  # which earlier versions read
    assert load_manifest(bundle).conv_transpose
    assert info(rewritten)["precision"].endswith("without ConvTranspose")


def test_the_graphs_share_the_weights_of_any_other_bundle(rewritten, bundle):
    assert [path.name for path in rewritten.glob("*.safetensors")] == ["weights.safetensors"]
    assert load_manifest(rewritten).weights == load_manifest(bundle).weights
    for graph in graphs_of(rewritten).values():
        held = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert not held
        places = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
        assert places == {"weights.safetensors"}
    assert all(path.stat().st_size < 100_000 for path in rewritten.glob("*.onnx"))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_the_gate_and_the_vectors_ran_on_the_graphs_that_are_written(rewritten, run, backend):
    for engine in load_manifest(rewritten).engines:
        assert backend in engine.parity.runners
        assert 0 < engine.parity.max_rel <= engine.parity.tolerance_rel
        require_torch_s_logits(run, rewritten, engine.entry, (2, 0, 3), backend)
    vectors = info(rewritten, verify=True, backend=backend)["verified"][: len(ENTRIES)]
    assert all(f"labels correct ({backend})" in line for line in vectors)
    assert len(load_manifest(rewritten).conformance) == len(ENTRIES)


def test_a_consumer_that_reads_onnx_files_only_gives_the_labels(rewritten):
    for vector in load_manifest(rewritten).conformance:
        scan, labels = (nib.as_closest_canonical(nib.load(rewritten / file.file)) for file in (vector.scan, vector.labels))
        found = consumer.segment(np.asarray(scan.dataobj)[None], scan.header.get_zooms(), rewritten)
        expected = np.asarray(labels.dataobj)
        assert np.count_nonzero(found != expected) <= 1e-4 * expected.size  # voxels where two logits are equal to the last bits


def test_tensorrt_builds_a_plan_of_it(rewritten):
    engine = load_manifest(rewritten).engine((3, 3, 3))
    assert build_plan(load_tensorrt("tensorrt_rtx_bindings"), engine, rewritten, profile_for(engine), None).onnx_sha256 == engine.sha256


def test_the_page_has_the_same_graphs(rewritten, bundle, tmp_path):
    graphs = []
    for source in (rewritten, bundle):
        opened = Bundle(source)
        places = unpack_weights(source / "weights.safetensors", tmp_path / "weights.bin")
        graphs.append(onnx.load_from_string(page_graph(opened, opened.manifest.engine((1, 1, 1)), places)).graph)
    assert operators(graphs[0]) == operators(graphs[1])
    assert operators(graphs[0])["ConvTranspose"] == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_entry_for_thick_slices_at_any_size(thick_run, tmp_path, precision):
    export(thick_run, tmp_path / "bundle", ExportOptions([(0, 0, 2)], precision=precision, conv_transpose=False, check=False))
    (graph,) = graphs_of(tmp_path / "bundle").values()
    assert operators(graph)["ConvTranspose"] == 0
    require_torch_s_logits(thick_run, tmp_path / "bundle", (0, 0, 2), (6, 1, 3))
    (tmp_path / "page").mkdir()
    assert len(write_page_graphs(Bundle(tmp_path / "bundle"), tmp_path / "page", Silent())) == 1  # it compares them with the bundle's


def test_a_u_net(tmp_path):
    spec = random_spec(load_suite("smoke"))
    network = spec.network.model_copy(update={"arch": "unet", "num_depths": 1})
    write_random_run(spec.model_copy(update={"network": network, "per_axis": False}), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "bundle", ExportOptions(conv_transpose=False, self_contained=True, check=False))
    (graph,) = graphs_of(tmp_path / "bundle").values()
    assert operators(graph)["ConvTranspose"] == 0
    require_torch_s_logits(tmp_path / "run", tmp_path / "bundle", (0, 0, 0), (1, 0, 2))


def test_a_wrong_rewriting_is_not_written(run, tmp_path, monkeypatch):
    taps = depth_to_space._taps

    def shifted(*axis):
        chosen, low = taps(*axis)
        return chosen, low - 1

    monkeypatch.setattr(depth_to_space, "_taps", shifted)
    with pytest.raises(ModelError, match="does not agree with PyTorch"):
        export(run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)], conv_transpose=False))
    assert list(tmp_path.iterdir()) == []
