"""Rewrites the instance norms of a graph so that they stay exact on large volumes.

InstanceNormalization in onnxruntime and OpenVINO sums a full volume in float32. If most of it is constant background, the variance is
wrong: logits were off by 1.7 for a skull-stripped head of 240x240x144 voxels. Here mean and variance are computed in stages (along Z, over
blocks, over the rest), each a sum of at most a few hundred values, and the variance is the mean of squared differences.
Decision: docs/decisions/0018-statistics-in-stages.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Graph = Any  # onnx.ModelProto
Node = Any  # onnx.NodeProto

OPERATORS = ("ReduceMean", "AveragePool", "Sub", "Mul", "Add", "Sqrt", "Div", "Constant")
_ALONG_Z, _OVER_XY, _OVER_ALL = "along_z", "over_xy", "over_all"
_AXES = {_ALONG_Z: [4], _OVER_XY: [2, 3], _OVER_ALL: [2, 3, 4]}


def write_out(graph: Graph, depth: int, num_levels: int) -> None:
    """Replace every InstanceNormalization of a graph entered at `depth` by elementary operators, in place.

    At level l every axis is a multiple of 2^(num_levels - l), the size of the blocks.
    """
    from onnx import helper, numpy_helper

    levels = _levels(graph, depth)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    constants: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.graph.node:
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        _, scale, shift = node.input
        for name in (scale, shift):  # (C,) becomes (1, C, 1, 1, 1) without changing the bytes
            weights[name].dims[:] = [1, weights[name].dims[-4] if len(weights[name].dims) == 5 else weights[name].dims[0], 1, 1, 1]
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        values = {name: np.array(axes, dtype=np.int64) for name, axes in _AXES.items()} | {f"epsilon_{epsilon:g}": np.float32(epsilon)}
        written = list(_norm(node, 2 ** (num_levels - levels[node.name]), f"epsilon_{epsilon:g}"))
        used = {name for item in written for name in item.input}
        for name in used & values.keys() - constants.keys():
            constants[name] = helper.make_node(
                "Constant", [], [name], name=name, value=numpy_helper.from_array(np.asarray(values[name]), name)
            )
        nodes += written
    del graph.graph.node[:]
    graph.graph.node.extend([*(constants[name] for name in sorted(constants)), *nodes])


def _norm(node: Node, block: int, epsilon: str) -> Iterator[Node]:
    """Yield the operators of one instance norm, in order."""
    from onnx import helper

    image, scale, shift = node.input

    def make(operator: str, inputs: list[str], part: str, **attributes: Any) -> Node:
        output = node.output[0] if part == "out" else f"{node.name}_{part}"
        return helper.make_node(operator, inputs, [output], name=f"{node.name}_{part}", **attributes)

    def mean(values: str, of: str) -> Iterator[Node]:
        if block == 1:
            yield make("ReduceMean", [values, _OVER_ALL], of)
            return
        yield make("ReduceMean", [values, _ALONG_Z], f"{of}_z")
        # the pooling prevents engines from merging both means into one
        yield make("AveragePool", [f"{node.name}_{of}_z"], f"{of}_block", kernel_shape=[block, block, 1], strides=[block, block, 1])
        yield make("ReduceMean", [f"{node.name}_{of}_block", _OVER_XY], of)

    names = {part: f"{node.name}_{part}" for part in ("mean", "centred", "squared", "variance", "regular", "deviation", "factor", "scaled")}
    yield from mean(image, "mean")
    yield make("Sub", [image, names["mean"]], "centred")
    yield make("Mul", [names["centred"], names["centred"]], "squared")
    yield from mean(names["squared"], "variance")
    yield make("Add", [names["variance"], epsilon], "regular")
    yield make("Sqrt", [names["regular"]], "deviation")
    yield make("Div", [scale, names["deviation"]], "factor")
    yield make("Mul", [names["centred"], names["factor"]], "scaled")
    yield make("Add", [names["scaled"], shift], "out")


def _levels(graph: Graph, depth: int) -> dict[str, int]:
    """Return the level of each node's output, by node name. Pooling goes one level down, a transposed convolution one level up."""
    level = {graph.graph.input[0].name: depth}
    found = {}
    for node in graph.graph.node:
        if node.input and node.input[0] in level:
            here = level[node.input[0]] + {"MaxPool": 1, "ConvTranspose": -1}.get(node.op_type, 0)
            level |= dict.fromkeys(node.output, here)
            found[node.name] = here
    return found
