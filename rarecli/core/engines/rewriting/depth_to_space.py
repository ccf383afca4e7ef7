"""Rewrites the transposed convolutions of a graph, for runtimes that have them in 2D only, such as WebGPU.

Used for every page that segments, and for bundles of `rare export --no-conv-transpose`.

Along an axis with stride s and padding p, output voxel s m + r takes tap r + p - s j of the kernel from input voxel m + j. So every
phase r is a convolution of its own, and all phases together are one convolution to s times the channels per axis: 8 times, or 4 or 2 times
where axes are coarse already. Its kernels are the old ones times a matrix of 0 and 1, which is exact. Reshape and Transpose lay the
phases out in space.
Decision: docs/decisions/0026-segment-page.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rarecli.core.errors import ModelError
from rarecli.core.types import FloatArray

Graph = Any  # onnx.ModelProto
Node = Any  # onnx.NodeProto


def write_out(graph: Graph) -> None:
    """Replace every ConvTranspose of a float32 graph, in place.

    Raises ModelError for one whose output is not its input times the stride.
    """
    constants = _Constants()
    nodes: list[Node] = []
    for node in graph.graph.node:
        nodes += _written(node, constants) if node.op_type == "ConvTranspose" else [node]
    del graph.graph.node[:]
    graph.graph.node.extend([*constants.nodes.values(), *nodes])


class _Constants:
    """The constants that the rewritten convolutions share, by name."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def add(self, name: str, values: Any) -> str:
        from onnx import helper, numpy_helper

        self.nodes[name] = helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(np.asarray(values), name))
        return name

    def integers(self, *values: int) -> str:
        return self.add("integers_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, dtype=np.int64))


def _written(node: Node, constants: _Constants) -> Iterator[Node]:
    """Yield the operators of one transposed convolution (B, C, X, Y, Z) -> (B, K, aX, bY, cZ)."""
    from onnx import helper

    strides, sizes, pads = _geometry(node)
    taps = [_taps(*axis) for axis in zip(strides, sizes, pads, strict=True)]
    extents = [chosen.shape[2] for chosen, _ in taps]
    before, behind = [-low for _, low in taps], [size - 1 + low for size, (_, low) in zip(extents, taps, strict=True)]
    choice = np.einsum("tra,usb,vqc->tuvrsqabc", *(chosen for chosen, _ in taps)).reshape(math.prod(sizes), -1)
    matrix = constants.add("taps_" + "_".join(map(str, [*strides, *sizes, *pads])), choice)
    integers = constants.integers
    (image, kernels, *bias), result = node.input, node.output[0]

    def make(operator: str, inputs: list[str], part: str, **attributes: Any) -> Node:
        return helper.make_node(operator, inputs, [part], name=part, **attributes)

    def named(part: str) -> str:
        return f"{result}_{part}"

    yield make("Reshape", [kernels, integers(0, 0, math.prod(sizes))], named("flat"))  # (C, K, taps)
    yield make("MatMul", [named("flat"), matrix], named("chosen"))
    yield make("Reshape", [named("chosen"), integers(0, -1, *extents)], named("phases"))
    yield make("Transpose", [named("phases")], named("kernels"), perm=[1, 0, 2, 3, 4])
    yield make("Conv", [image, named("kernels")], named("parts"), kernel_shape=extents, pads=[*before, *behind])
    yield make("Shape", [image], named("batch"), start=0, end=1)
    yield make("Shape", [image], named("space"), start=2)
    yield make("Concat", [named("batch"), integers(-1, *strides), named("space")], named("apart"), axis=0)
    yield make("Reshape", [named("parts"), named("apart")], named("split"))  # (B, K, a, b, c, X, Y, Z)
    yield make("Transpose", [named("split")], named("laid"), perm=[0, 1, 5, 2, 6, 3, 7, 4])
    yield make("Mul", [named("space"), integers(*strides)], named("larger"))
    yield make("Concat", [named("batch"), integers(-1), named("larger")], named("whole"), axis=0)
    yield make("Reshape", [named("laid"), named("whole")], named("joined") if bias else result)
    if bias:
        yield make("Reshape", [bias[0], integers(-1, 1, 1, 1)], named("bias"))
        yield make("Add", [named("joined"), named("bias")], result)


def _geometry(node: Node) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return strides, sizes of the kernel and padding before an axis. Raises ModelError as `write_out`."""
    from onnx import helper

    facts = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    strides, sizes, pads = (
        np.array(facts.get(name, usual)) for name, usual in (("strides", [1] * 3), ("kernel_shape", []), ("pads", [0] * 6))
    )
    rest = sizes - strides + facts.get("output_padding", [0] * 3) - pads[:3] - pads[3:]
    if rest.any() or facts.get("group", 1) != 1 or set(facts.get("dilations", [1])) != {1}:
        raise ModelError("a transposed convolution whose output is not its input times the stride", path=node.name, found=facts)
    return strides.tolist(), sizes.tolist(), pads[:3].tolist()


def _taps(stride: int, size: int, pad: int) -> tuple[FloatArray, int]:
    """Return, for one axis, which tap each phase takes from each input voxel, 0 or 1 (tap, phase, voxel), and the first voxel's offset."""
    low, high = -((size - 1 - pad) // stride), (stride - 1 + pad) // stride
    chosen = np.zeros((size, stride, high - low + 1), dtype=np.float32)
    for phase in range(stride):
        for voxel in range(low, high + 1):
            if 0 <= (tap := phase + pad - stride * voxel) < size:
                chosen[tap, phase, voxel - low] = 1
    return chosen, low
