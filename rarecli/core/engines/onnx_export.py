"""Exports the entries of the network as ONNX graphs that share one file of weights.

The graphs of a bundle hold no weights: each initializer points by offset into one safetensors file as ONNX external data.
Four entries need one set of weights, in a file that PyTorch loads as well.
Decision: docs/decisions/0004-static-trace-dynamic-engine.md.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from rarecli.core.config import geometry
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines import instance_norm
from rarecli.core.engines.manifest import Precision
from rarecli.core.errors import ModelError, missing_extra
from rarecli.core.model import RareUNet
from rarecli.core.types import AnyArray

OPSET = 20
INPUT, OUTPUT = "image", "logits"
SHAPE_FREE_OPS = {"Conv", "InstanceNormalization", "LeakyRelu", "MaxPool", "ConvTranspose", "Concat"}
_PREFIX = "network."

Graph = Any  # onnx.ModelProto; onnx is imported when the first graph is made


class EntryPoint(nn.Module):
    """The network with one fixed depth of entry, as an engine computes it."""

    def __init__(self, network: RareUNet, depth: int) -> None:
        super().__init__()
        self.network, self.depth = network, depth

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K, X, Y, Z) for an image (B, C, X, Y, Z)."""
        logits: Tensor = self.network(image, self.depth)
        return logits


def trace(network: RareUNet, spec: ModelSpec, depth: int, precision: Precision) -> Graph:
    """Return one entry as a graph with its weights inside. The batch is dynamic, spatial sizes in multiples of the depth's divisor.

    fp16 keeps instance norms and the graph's input and output in float32. Raises ModelError for an operator that may hold a size.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would warn that torchvision is not installed
    step = geometry.divisor(spec.network.num_levels, depth)
    least = geometry.min_axis(spec.network.num_levels, depth)
    example = torch.zeros(2, spec.network.in_channels, least, least + step, least + 2 * step)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
            program = torch.onnx.export(
                EntryPoint(network, depth).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "train") from None
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    _free_shapes(graph, step)
    if precision == "fp16":
        graph = _to_float16(graph)
    instance_norm.write_out(graph, depth, spec.network.num_levels)
    facts = {"depth": depth, "grid_spacing_mm": spec.grid_spacing_mm(depth), "precision": precision}
    names = {"labels": spec.plan.label_names, "channels": spec.plan.channel_names}
    _set_metadata(graph, {f"rare.{key}": json.dumps(value) for key, value in (facts | names).items()})
    return graph


def weights_of(graphs: Mapping[int, Graph], network: RareUNet) -> dict[str, AnyArray]:
    """Return the weights of all graphs by their names in the network's state dict, each in the dtype of the graphs."""
    from onnx import numpy_helper

    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for graph in graphs.values():
        for tensor in graph.graph.initializer:
            name = tensor.name.removeprefix(_PREFIX)
            if name not in weights:
                raise ModelError("the exporter made a tensor that is not a weight", found=tensor.name, remedy="another version of torch")
            weights[name] = numpy_helper.to_array(tensor).reshape(weights[name].shape)
    return weights


def save_shared_weights(weights: dict[str, AnyArray], file: Path) -> None:
    """Write the safetensors file that the graphs point into."""
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, file)


def share_weights(graph: Graph, file: Path) -> None:
    """Replace every weight of a graph by a pointer into the safetensors `file`, which must be beside the graph."""
    from onnx import TensorProto

    places = _places(file)
    for tensor in graph.graph.initializer:
        offset, length = places[tensor.name.removeprefix(_PREFIX)]
        tensor.ClearField("raw_data")
        tensor.ClearField("int32_data")  # onnx may keep float16 here
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def save_graph(graph: Graph, file: Path) -> None:
    """Write a graph and check it, with shape inference through every operator."""
    import onnx

    file.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(str(file), full_check=True)


def _free_shapes(graph: Graph, step: int) -> None:
    """Make batch and spatial sizes dynamic, spatial sizes in multiples of `step`.

    The graph was traced with fixed sizes, which takes a tenth of the time of tracing with symbolic sizes. The operators in
    SHAPE_FREE_OPS hold no sizes, so only the declared shapes have to change; other operators are refused.
    """
    if stray := {node.op_type for node in graph.graph.node} - SHAPE_FREE_OPS:
        expected = ", ".join(sorted(SHAPE_FREE_OPS))
        raise ModelError("the exporter used operators that may hold a size", found=", ".join(sorted(stray)), expected=expected)
    del graph.graph.value_info[:]
    for value in (*graph.graph.input, *graph.graph.output):
        batch, _, *space = value.type.tensor_type.shape.dim
        batch.dim_param = "batch"
        for dim, axis in zip(space, "xyz", strict=True):
            dim.dim_param = f"{step}*{axis}"


def _to_float16(graph: Graph) -> Graph:
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights below the smallest float16 become that; the parity gate checks the result
        converted = convert_float_to_float16(graph, keep_io_types=True, op_block_list=["InstanceNormalization"])
    del converted.graph.value_info[:]
    OnnxModel(converted).topological_sort()  # the converter appends its casts
    return converted


def _set_metadata(graph: Graph, facts: dict[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(graph, facts)


def _strip(graph: Graph) -> None:
    """Remove the exporter's notes about this machine: stack traces with source paths."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    for item in (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _places(file: Path) -> dict[str, tuple[int, int]]:
    """Return the (offset, length) in bytes of each tensor in a safetensors file, by name. Source: the safetensors README."""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: (start + item["data_offsets"][0], item["data_offsets"][1] - item["data_offsets"][0])
        for name, item in header.items()
        if name != "__metadata__"
    }
