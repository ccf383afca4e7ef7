"""The page of `rare export --format html`, read with the standard library. tests/integration/browser opens it."""

import base64
import gzip
import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from rarecli.core.engines import page_graphs
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.engines.onnx_runner import OnnxRunner
from rarecli.core.engines.page_graphs import write_page_graphs
from rarecli.core.engines.segment_page import PageOptions, web_folder, write_segment_page
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.jobs.progress import Silent

PAPER = built_in_models()["hippocampus-paper"]
ASSET = re.compile(r'<script type="text/plain" id="asset:([^"]+)">([^<]*)</script>')


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "segment.html"
    write_segment_page(PAPER, path)
    return path


@pytest.fixture(scope="module")
def assets(page):
    return {name: gzip.decompress(base64.b64decode(content)) for name, content in ASSET.findall(page.read_text())}


def test_the_page_holds_the_bundle_and_the_library(page, assets):
    manifest = json.loads((PAPER / "manifest.json").read_text())
    vectors = [item["file"] for vector in manifest["conformance"] for item in vector.values() if isinstance(item, dict)]
    assert len(vectors) == 12
    for name in (*vectors, "weights.safetensors"):
        assert assets[name] == (PAPER / name).read_bytes()
    assert assets["ort.wasm"][:4] == assets["dcm2niix.wasm"][:4] == b"\0asm"
    assert set(assets) == {
        *vectors,
        "weights.safetensors",
        "ort.wasm",
        "ort.js",
        "ort.mjs",
        "dcm2niix.js",
        "dcm2niix.wasm",
        *(engine["file"] for engine in manifest["engines"]),
    }
    text = page.read_text()
    inside = json.loads(re.search(r'id="manifest">(.*?)</script>', text, re.DOTALL)[1])
    assert inside == manifest
    assert page.stat().st_size <= 26e6


def test_the_page_requests_nothing_and_says_what_it_is_not(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "connect-src" not in text
    assert text.count("Not a medical device") >= 2
    assert not re.search(r'(src|href)="(?!#|data:)', ASSET.sub("", text).split('id="worker"')[0])


def test_the_graphs_compute_in_float32_with_the_weights_of_the_bundle(assets, tmp_path):
    graph = onnx.load_from_string(assets["entry_1_1_1.onnx"])
    assert {"Cast", "ConvTranspose"}.isdisjoint(node.op_type for node in graph.graph.node)
    assert {tensor.data_type for tensor in graph.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    # the law of the page: all tensors as float32, one behind the other in the order of the file
    weights = load_file(PAPER / "weights.safetensors")
    raw = (PAPER / "weights.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    order = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    (tmp_path / "weights.bin").write_bytes(b"".join(weights[name].astype(np.float32).tobytes() for name in order))
    (tmp_path / "graph.onnx").write_bytes(assets["entry_1_1_1.onnx"])
    image = np.random.default_rng(0).random((1, 1, 16, 24, 16), dtype=np.float32)
    found = onnxruntime.InferenceSession(tmp_path / "graph.onnx").run(["logits"], {"image": image})[0]
    with OnnxRunner(Bundle(PAPER), "cpu") as runner:
        expected = runner.run(image, (1, 1, 1))
    assert np.abs(found - expected).max() <= 5e-3 * np.abs(expected).max()


def test_a_run_is_exported_first(run, tmp_path):
    manifest = write_segment_page(run, tmp_path / "page.html", PageOptions([(2, 2, 2)], "fp16"))
    assert (manifest.entries, manifest.precision) == (((2, 2, 2),), "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_graph_that_does_not_agree_is_not_written(bundle, tmp_path, monkeypatch):
    places = page_graphs.unpack_weights

    def spoiled(file, unpacked):
        found = places(file, unpacked)
        content = np.fromfile(unpacked, np.float32)
        (1.01 * content).tofile(unpacked)
        return found

    monkeypatch.setattr(page_graphs, "unpack_weights", spoiled)
    with pytest.raises(ModelError, match="does not agree"):
        write_segment_page(bundle, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["page", "page.txt", "folder.html"])
def test_other_names_are_refused(bundle, tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="a page is one file"):
        write_segment_page(bundle, tmp_path / name)


def test_only_its_own_page_is_replaced(bundle, page, tmp_path):
    foreign, own = tmp_path / "foreign.html", tmp_path / "own.html"
    foreign.write_text("<p>notes</p>")
    with pytest.raises(UsageError, match="rare did not write"):
        write_segment_page(bundle, foreign, PageOptions(overwrite=True))
    own.write_bytes(page.read_bytes())
    with pytest.raises(UsageError, match="the output exists"):
        write_segment_page(bundle, own)


def test_a_self_contained_bundle_is_refused(run, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(entries=[(2, 2, 2)], self_contained=True, check=False))
    (tmp_path / "graphs").mkdir()
    with pytest.raises(UsageError, match="one weights file"):
        write_page_graphs(Bundle(tmp_path / "bundle"), tmp_path / "graphs", Silent())


def test_the_libraries_have_licences_and_pins():
    libraries = web_folder() / "libraries"
    for name, pinned in json.loads((libraries / "versions.json").read_text()).items():
        assert pinned["integrity"].startswith("sha512-")
        licence = (libraries / name.rpartition("/")[2] / "LICENSE").read_text()
        assert "Permission is hereby granted" in licence or "Redistribution and use in source and binary forms" in licence


def test_onnxruntime_does_not_warn(capfd):
    """It did, of every kernel of a coarse axis in fp16 that it cannot compute beforehand."""
    bundle = Bundle(built_in_models()["hippocampus"])
    engine = bundle.manifest.engine((0, 0, 1))
    with OnnxRunner(bundle, "cpu") as runner:
        runner.run(np.zeros((1, 1, *engine.min_shape), dtype=np.float32), engine.entry)
    assert "[W:" not in capfd.readouterr().err
    onnxruntime.InferenceSession(bundle.engine_file(engine.entry))
    assert "[W:onnxruntime" in capfd.readouterr().err  # the graph is one that it warns about
