"""A Triton Python model that runs the engine of one entry in onnxruntime, for servers without the onnxruntime backend.

Imported only on the server, by `PREFIX_entry_X_Y_Z/1/model.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # exists only in the server's Python

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.onnx_runner import OnnxRunner
from rarecli.core.serving.guard import Guard


class TritonPythonModel:
    """The network at one entry: image (B, C, X, Y, Z) -> logits (B, K, X, Y, Z)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compare the engine with the manifest. A RareError keeps the model from loading and is written to the server's log."""
        bundle = Bundle(Path(args["model_repository"]) / args["model_version"])
        x, y, z = json.loads(json.loads(args["model_config"])["parameters"]["entry"]["string_value"])
        self._entry = x, y, z
        self._engine = bundle.manifest.engine(self._entry)
        bundle.engine_file(self._entry)
        self._runner = OnnxRunner(bundle, device="cpu")
        self._guard = Guard(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch. Dynamic batching combines only requests of one shape."""
        images = [triton.get_input_tensor_by_name(request, self._engine.input.name).as_numpy() for request in requests]
        try:
            logits = self._runner.run(images[0] if len(images) == 1 else np.concatenate(images), self._entry)
        except Exception as error:
            failure = triton.TritonError(f"{type(error).__name__}: {error}")
            return [triton.InferenceResponse(error=failure) for _ in requests]
        ends = np.cumsum([len(image) for image in images])[:-1]
        parts = np.split(logits, ends)
        return [triton.InferenceResponse([triton.Tensor(self._engine.output.name, part)]) for part in parts]

    def finalize(self) -> None:
        """Let the process end. Triton calls this when the model is unloaded."""
        self._guard.release()
