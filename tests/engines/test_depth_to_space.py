"""Transposed convolutions written as convolutions, beside those of onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarecli.core.engines.rewriting import depth_to_space
from rarecli.core.errors import ModelError

# strides, kernels, pads, output pads: as in the network at full depth, with one and two coarse axes, without overlap, of an odd kind
KINDS = {
    "eight parts": ((2, 2, 2), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "four parts": ((2, 1, 2), (3, 3, 3), (1, 1, 1), (1, 0, 1)),
    "two parts": ((1, 1, 2), (3, 3, 3), (1, 1, 1), (0, 0, 1)),
    "no overlap": ((2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    "stride 3": ((3, 2, 1), (5, 4, 1), (1, 1, 0), (0, 0, 0)),
}


def graph_of(strides, kernel, pads, more, bias=True):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((3, 2, *kernel)), "b": rng.standard_normal(2)}
    attributes = {"strides": strides, "kernel_shape": kernel, "pads": [*pads, *pads], "output_padding": more}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"][: 2 + bias], ["y"], **attributes)
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", num, None, None, None]) for name, num in (("x", 3), ("y", 2))
    )
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    return helper.make_model(
        helper.make_graph([node], "g", [image], [result], weights), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


def run(graph):
    image = np.random.default_rng(1).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": image})[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_that_of_the_transposed_convolution(kind, bias):
    graph = graph_of(*KINDS[kind], bias=bias)
    expected = run(graph)
    assert expected.shape[2:] == tuple(size * stride for size, stride in zip((4, 5, 6), KINDS[kind][0], strict=True))
    depth_to_space.write_out(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert "ConvTranspose" not in {node.op_type for node in graph.graph.node}
    np.testing.assert_allclose(run(graph), expected, atol=1e-5)


def test_an_output_that_is_not_the_input_times_the_stride_is_refused():
    with pytest.raises(ModelError, match="not its input times the stride"):
        depth_to_space.write_out(graph_of((2, 2, 2), (3, 3, 3), (1, 1, 1), (0, 1, 1)))
