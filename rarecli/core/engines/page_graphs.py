"""The graphs of a page: those of a bundle, computed in float32.

A bundle in fp16 holds casts, because norms, input and output are float32. WebAssembly has no fp16 and loses time by them. The page
stores the weights as the bundle does and unpacks them once: float32, one tensor behind the other in the order of the safetensors file. The
graphs of the page point into that.
Decision: docs/decisions/0026-segment-page.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from rarecli.core.engines.bundle import Bundle, tensor_places
from rarecli.core.engines.manifest import Engine
from rarecli.core.engines.onnx_runner import OnnxRunner, open_session
from rarecli.core.engines.parity import check_parity
from rarecli.core.engines.rewriting import depth_to_space
from rarecli.core.engines.runner import engine_errors
from rarecli.core.errors import UsageError, missing_extra
from rarecli.core.jobs.progress import Reporter
from rarecli.core.types import FloatArray

WEIGHTS = "weights.bin"
"""The name under which the graphs look for the unpacked weights."""
_FLOAT_BYTES = 4

Graph = Any  # onnx.ModelProto


def write_page_graphs(bundle: Bundle, folder: Path, reporter: Reporter) -> dict[str, bytes]:
    """Return the graphs of a bundle for a page, by the names of its engines. Each is compared with the bundle's engine.

    folder: an empty one, for the graphs and the unpacked weights. Raises ModelError if a graph does not agree, UsageError for a bundle with
    its weights inside the graphs.
    """
    places = unpack_weights(shared_weights(bundle), folder / WEIGHTS)
    graphs = {}
    with OnnxRunner(bundle, "cpu") as reference:
        for engine in reporter.track(bundle.manifest.engines, "graphs for the page", len(bundle.manifest.engines)):
            graphs[engine.file] = page_graph(bundle, engine, places)
            (folder / engine.file).write_bytes(graphs[engine.file])
            _check(engine, folder / engine.file, bundle, reference)
    return graphs


def shared_weights(bundle: Bundle) -> Path:
    """Return the weights file of a bundle. Raises UsageError if the weights are inside the graphs."""
    weights = bundle.manifest.weights
    if weights is None:
        raise UsageError("a page needs a bundle with one weights file", path=bundle.path, remedy="export without --self-contained")
    return bundle.file(weights)


def page_graph(bundle: Bundle, engine: Engine, places: dict[str, int]) -> bytes:
    """Return the graph of an engine for a page, not compared with the engine. places: of the unpacked weights, see `unpack_weights`."""
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "train") from None
    graph = onnx.load(str(bundle.engine_file(engine.entry)), load_external_data=False)
    _compute_in_float32(graph)
    depth_to_space.write_out(graph)
    _point_to_weights(graph, places)
    content: bytes = graph.SerializeToString()
    return content


def unpack_weights(file: Path, unpacked: Path) -> dict[str, int]:
    """Write all tensors of a safetensors file as float32, in the order of the file. Return the offset of each in bytes, by name."""
    tensors, places = load_file(file), {}
    with unpacked.open("wb") as stream:
        for name in sorted(tensors, key=tensor_places(file).__getitem__):
            places[name] = stream.tell()
            stream.write(tensors[name].astype(np.float32).tobytes())
    return places


def _compute_in_float32(graph: Graph) -> None:
    """Remove the casts of a graph, and make its float16 tensors float32."""
    from onnx import TensorProto, numpy_helper

    source = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "Cast"}

    def origin(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    outputs = {value.name for value in graph.graph.output}
    nodes = [node for node in graph.graph.node if node.op_type != "Cast"]
    results = {origin(name): name for name in outputs}
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [results.get(origin(name), origin(name)) for name in names]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    constants = [node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"]
    for tensor in (*graph.graph.initializer, *constants):
        if tensor.data_type != TensorProto.FLOAT16:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.data_type = TensorProto.FLOAT
        else:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _point_to_weights(graph: Graph, places: dict[str, int]) -> None:
    from onnx import TensorProto

    for tensor in graph.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            del tensor.external_data[:]
            values = {"location": WEIGHTS, "offset": places[tensor.name], "length": _FLOAT_BYTES * math.prod(tensor.dims)}
            for key, value in values.items():
                tensor.external_data.add(key=key, value=str(value))


def _check(engine: Engine, file: Path, bundle: Bundle, reference: OnnxRunner) -> None:
    """Raise ModelError unless a graph of the page agrees with the bundle's engine, on images of the least shape."""
    with engine_errors(file):
        session = open_session(file, ["CPUExecutionProvider"])

    def run(image: FloatArray) -> FloatArray:
        logits: FloatArray = session.run([engine.output.name], {engine.input.name: image})[0]
        return logits

    manifest = bundle.manifest
    check_parity(file.name, {"page": run}, manifest.spec, engine.entry, manifest.precision, reference, shapes=[engine.min_shape])
