"""Rewrites the instance norms of a graph so that they stay exact on large volumes.

InstanceNormalization in onnxruntime and OpenVINO sums a full volume in float32. If most of it is constant background, the variance is
wrong: logits were off by 1.7 for a skull-stripped head of 240x240x144 voxels. Here mean and variance are computed in stages (along Z, Y,
X), each a sum of at most a few hundred values, and the variance is the mean of squared differences.
Decision: docs/decisions/0018-statistics-in-stages.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Graph = Any  # onnx.ModelProto
Node = Any  # onnx.NodeProto

OPERATORS = ("ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div", "Constant")
_AXES = {"along_z": 4, "along_y": 3, "along_x": 2}
_APART = "keeps_apart"
_ALMOST_NOTHING = 1e-30
"""Added between two means, because engines merge means that follow each other. It is far below the last bit of any mean but 0."""


def write_out(graph: Graph) -> None:
    """Replace every InstanceNormalization of a graph by elementary operators, in place."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    constants: dict[str, Node] = {}
    nodes: list[Node] = []
    number = 0
    for node in graph.graph.node:
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        _, scale, shift = node.input
        for name in (scale, shift):  # (C,) becomes (1, C, 1, 1, 1) without changing the bytes
            weights[name].dims[:] = [1, weights[name].dims[-4] if len(weights[name].dims) == 5 else weights[name].dims[0], 1, 1, 1]
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        values: dict[str, Any] = {name: np.array([axis], dtype=np.int64) for name, axis in _AXES.items()}
        values |= {f"epsilon_{epsilon:g}": np.float32(epsilon), _APART: np.float32(_ALMOST_NOTHING)}
        number += 1
        written = list(_norm(node, f"norm{number}", f"epsilon_{epsilon:g}"))
        used = {name for item in written for name in item.input}
        for name in used & values.keys() - constants.keys():
            constants[name] = helper.make_node(
                "Constant", [], [name], name=name, value=numpy_helper.from_array(np.asarray(values[name]), name)
            )
        nodes += written
    del graph.graph.node[:]
    graph.graph.node.extend([*(constants[name] for name in sorted(constants)), *nodes])


def _norm(node: Node, name: str, epsilon: str) -> Iterator[Node]:
    """Yield the operators of one instance norm, in order. name: short, since it is written many times into every graph of a bundle."""
    from onnx import helper

    image, scale, shift = node.input

    def make(operator: str, inputs: list[str], part: str, **attributes: Any) -> Node:
        output = node.output[0] if part == "out" else f"{name}_{part}"
        return helper.make_node(operator, inputs, [output], name=f"{name}_{part}", **attributes)

    def mean(values: str, of: str) -> Iterator[Node]:
        yield make("ReduceMean", [values, "along_z"], f"{of}_z")
        yield make("Add", [f"{name}_{of}_z", _APART], f"{of}_z_apart")
        yield make("ReduceMean", [f"{name}_{of}_z_apart", "along_y"], f"{of}_y")
        yield make("Add", [f"{name}_{of}_y", _APART], f"{of}_y_apart")
        yield make("ReduceMean", [f"{name}_{of}_y_apart", "along_x"], of)

    names = {part: f"{name}_{part}" for part in ("mean", "centred", "squared", "variance", "regular", "deviation", "factor", "scaled")}
    yield from mean(image, "mean")
    yield make("Sub", [image, names["mean"]], "centred")
    yield make("Mul", [names["centred"], names["centred"]], "squared")
    yield from mean(names["squared"], "variance")
    yield make("Add", [names["variance"], epsilon], "regular")
    yield make("Sqrt", [names["regular"]], "deviation")
    yield make("Div", [scale, names["deviation"]], "factor")
    yield make("Mul", [names["centred"], names["factor"]], "scaled")
    yield make("Add", [names["scaled"], shift], "out")
