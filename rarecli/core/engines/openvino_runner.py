"""Running the ONNX engines of a bundle in OpenVINO, the fastest on a CPU."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from rarecli.core.engines.manifest import Bundle
from rarecli.core.errors import EnvironmentFault, UsageError, missing_extra
from rarecli.core.types import FloatArray

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRunner:
    """One compiled model per depth and shape, made when it is first needed: fixed sizes run faster. See `runners.Runner`.

    precision: fp32, or bf16 on a CPU that computes with it.
    """

    backend = "openvino"

    def __init__(self, bundle: Bundle, device: str = "auto", num_threads: int | None = None, precision: str = "fp32") -> None:
        try:
            import openvino
        except ImportError:
            raise missing_extra("openvino", "cpu") from None
        if device not in ("auto", "cpu"):
            raise UsageError("openvino runs on the CPU here", field="device", found=device, expected="auto or cpu", remedy="--backend onnx")
        self._core = openvino.Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EnvironmentFault("this CPU does not compute with bfloat16", field="precision", found="bf16", remedy="--precision fp32")
        self._bundle, self.depths = bundle, bundle.manifest.depths
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        if num_threads:
            self._options["INFERENCE_NUM_THREADS"] = num_threads
        self._requests: dict[tuple[int, tuple[int, ...]], Any] = {}

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._requests.clear()

    def run(self, image: FloatArray, depth: int) -> FloatArray:
        """(B, C, X, Y, Z) float32 -> logits (B, K, X, Y, Z) float32."""
        request = self._requests.get((depth, image.shape)) or self._open(depth, image.shape)
        # a copy: the request uses its output's memory again
        return np.array(request.infer([np.ascontiguousarray(image)])[0])

    def _open(self, depth: int, shape: tuple[int, ...]) -> Any:
        model = self._core.read_model(str(self._bundle.engine_file(depth)))
        model.reshape(list(shape))
        self._requests[depth, shape] = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        return self._requests[depth, shape]
