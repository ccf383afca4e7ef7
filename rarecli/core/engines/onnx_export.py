"""Exports the entries of the network as ONNX graphs that share one file of weights.

The graphs of a bundle hold no weights: each initializer points by offset into one safetensors file as ONNX external data.
All entries need one set of weights, in a file that PyTorch loads as well. Where an axis is coarse, the graph computes the adapted kernels
from the shared weights.
Decisions: docs/decisions/0004-static-trace-dynamic-engine.md, docs/decisions/0019-resolution-is-a-vector.md.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.func import functional_call

from rarecli.core.config import geometry
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.bundle import tensor_places
from rarecli.core.engines.manifest import Precision
from rarecli.core.engines.rewriting import depth_to_space, instance_norm
from rarecli.core.errors import ModelError, missing_extra
from rarecli.core.model import RareUNet
from rarecli.core.types import AnyArray, Entry, Shape

OPSET = 20
INPUT, OUTPUT = "image", "logits"
SHAPE_FREE_OPS = {"Conv", "InstanceNormalization", "LeakyRelu", "MaxPool", "ConvTranspose", "Concat"}
_KERNEL_OPS = {"Reshape", "MatMul"}
"""Adapt the kernels of coarse axes. They work on weights, whose sizes are fixed, and are computed once, when an engine is opened."""

Graph = Any  # onnx.ModelProto; onnx is imported when the first graph is made


@dataclass(frozen=True)
class GraphOptions:
    """How the graphs are written.

    precision: fp16 keeps instance norms, input and output in float32. conv_transpose: False writes each ConvTranspose as Conv, Reshape and
    Transpose, for runtimes that have it in 2D only or not at all.
    """

    precision: Precision = "fp32"
    conv_transpose: bool = True


class EntryPoint(nn.Module):
    """The network with one fixed entry, as an engine computes it.

    The weights are inputs, so that the exporter does not compute what depends on them alone: each graph would hold adapted kernels then.
    """

    def __init__(self, network: RareUNet, entry: Entry) -> None:
        super().__init__()
        self.held, self.names, self.entry = (network,), list(network.state_dict()), entry

    def forward(self, image: Tensor, weights: list[Tensor]) -> Tensor:
        """Return logits (B, K, X, Y, Z) for an image (B, C, X, Y, Z)."""
        (network,) = self.held
        logits: Tensor = functional_call(network, dict(zip(self.names, weights, strict=True)), (image, self.entry))
        return logits


def trace(network: RareUNet, spec: ModelSpec, entry: Entry, options: GraphOptions) -> Graph:
    """Return one entry as a graph with its weights inside. The batch is dynamic, spatial sizes in multiples of the entry's divisors.

    Raises ModelError for an operator that may hold a size.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would warn that torchvision is not installed
    weights = network.state_dict()
    # every axis has another size, and every pooling halves it exactly
    least = zip(geometry.min_shape(spec.network.num_levels, entry, any_size=False), (0, 1, 2), strict=True)
    x, y, z = (size + more * size // geometry.MIN_BOTTLENECK for size, more in least)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
            program = torch.onnx.export(
                EntryPoint(network, entry).eval(),
                (torch.zeros(2, spec.network.in_channels, x, y, z), list(weights.values())),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT, *weights],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "train") from None
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    _hold_weights(graph, weights)
    _free_shapes(graph, spec.divisors(entry))
    if spec.any_size:
        _crop_to_skips(graph)
    if not options.conv_transpose:
        depth_to_space.write_out(graph)
    if options.precision == "fp16":
        graph = _to_float16(graph)
    instance_norm.write_out(graph)
    facts = {"entry": entry, "grid_spacing_mm": spec.grid_spacing_mm(entry), "precision": options.precision}
    names = {"labels": spec.plan.label_names, "channels": spec.plan.channel_names}
    _set_metadata(graph, {f"rare.{key}": json.dumps(value) for key, value in (facts | names).items()})
    return graph


def weights_of(graphs: Iterable[Graph], network: RareUNet) -> dict[str, AnyArray]:
    """Return the weights of all graphs by their names in the network's state dict, each in the dtype of the graphs."""
    from onnx import numpy_helper

    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for graph in graphs:
        for tensor in graph.graph.initializer:
            if tensor.name in weights:
                weights[tensor.name] = numpy_helper.to_array(tensor).reshape(weights[tensor.name].shape)
    return weights


def save_shared_weights(weights: dict[str, AnyArray], file: Path) -> None:
    """Write the safetensors file that the graphs point into."""
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, file)


def share_weights(graph: Graph, file: Path) -> None:
    """Replace every weight of a graph by a pointer into the safetensors `file`, which must be beside the graph."""
    from onnx import TensorProto

    places = tensor_places(file)
    for tensor in graph.graph.initializer:
        if tensor.name not in places:  # a constant
            continue
        offset, length = places[tensor.name]
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


def _hold_weights(graph: Graph, weights: Mapping[str, Tensor]) -> None:
    """Turn the inputs that are weights into initializers; an entry needs only some of them."""
    from onnx import numpy_helper

    used = {name for node in graph.graph.node for name in node.input}
    image = [value for value in graph.graph.input if value.name not in weights]
    del graph.graph.input[:]
    graph.graph.input.extend(image)
    graph.graph.initializer.extend(numpy_helper.from_array(tensor.numpy(), name) for name, tensor in weights.items() if name in used)


def _free_shapes(graph: Graph, divisors: Shape) -> None:
    """Make batch and spatial sizes dynamic, spatial sizes in multiples of `divisors`.

    The graph was traced with fixed sizes, which takes a tenth of the time of tracing with symbolic sizes. The operators in
    SHAPE_FREE_OPS hold no sizes, so only the declared shapes have to change; other operators on the image are refused.
    """
    on_image = {value.name for value in graph.graph.input}
    for node in graph.graph.node:
        allowed = _KERNEL_OPS
        if on_image & set(node.input):
            on_image |= set(node.output)
            allowed = SHAPE_FREE_OPS
        if node.op_type not in allowed:
            expected = ", ".join(sorted(allowed))
            raise ModelError("the exporter used an operator that may hold a size", found=node.op_type, expected=expected)
    del graph.graph.value_info[:]
    for value in (*graph.graph.input, *graph.graph.output):
        batch, _, *space = value.type.tensor_type.shape.dim
        batch.dim_param = "batch"
        for dim, axis, step in zip(space, "xyz", divisors, strict=True):
            dim.dim_param = f"{step}*{axis}" if step > 1 else axis


def _crop_to_skips(graph: Graph) -> None:
    """Crop upsampled features to the size of their skip connection, as the network does where an axis is odd."""
    from onnx import helper, numpy_helper

    constants = {"crop_from": [0, 0, 0], "crop_axes": [2, 3, 4]}
    graph.graph.initializer.extend(numpy_helper.from_array(np.array(values, dtype=np.int64), name) for name, values in constants.items())
    nodes = []
    for node in graph.graph.node:
        if node.op_type == "Concat":
            above, skip = node.input
            size, cropped = f"{node.name}_size", f"{node.name}_cropped"
            nodes.append(helper.make_node("Shape", [skip], [size], name=size, start=2))
            nodes.append(helper.make_node("Slice", [above, "crop_from", size, "crop_axes"], [cropped], name=cropped))
            node.input[0] = cropped
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


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
