"""The router as a Triton Python model. Imported only on the server, by `PREFIX/1/model.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # exists only in the server's Python

from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.serving import contract
from rarecli.core.serving.guard import Guard
from rarecli.core.serving.router import Router, open_repository
from rarecli.core.types import AnyArray, Entry, FloatArray


class TritonPythonModel:
    """Segments one scan per request. Its windows go to the entry's model as separate requests (BLS)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compare every engine with the manifest. A RareError keeps the model from loading and is written to the server's log."""
        folder = Path(args["model_repository"])
        backend = json.loads(args["model_config"])["parameters"]["backend"]["string_value"]
        self._name, self._version = args["model_name"], args["model_version"]
        self._manifest = open_repository(folder.parent, self._name, self._version, backend)
        self._router = Router(self._manifest, self._infer)
        self._guard = Guard(self._name)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request. A failed request is answered with its error; the others go on."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Stop the router's threads. Triton calls this when the model is unloaded."""
        self._guard.release()
        self._router.close()

    def _respond(self, request: Any) -> Any:
        try:
            inputs: dict[str, AnyArray] = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            x, y, z = (float(spacing) for spacing in inputs[contract.SPACING])
            entry = None
            if contract.ENTRY in inputs:
                a, b, c = (int(depth) for depth in inputs[contract.ENTRY])
                entry = a, b, c
            wanted = set(request.requested_output_names())
            outputs = self._router.answer(inputs[contract.IMAGE], (x, y, z), entry, wanted)
        except EnvironmentFault as error:
            return _refusal(str(error), triton.TritonError.UNAVAILABLE)
        except RareError as error:
            return _refusal(str(error), triton.TritonError.INVALID_ARG)
        except Exception as error:
            return _refusal(f"this is a bug in rare: {type(error).__name__}: {error}", triton.TritonError.INTERNAL)
        return triton.InferenceResponse([triton.Tensor(name, data) for name, data in outputs.items() if name in wanted])

    def _infer(self, window: FloatArray, entry: Entry) -> FloatArray:
        engine = self._manifest.engine(entry)
        model = contract.entry_model(self._name, entry)
        request = triton.InferenceRequest(
            model_name=model,
            model_version=int(self._version),
            inputs=[triton.Tensor(engine.input.name, window)],
            requested_output_names=[engine.output.name],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise EnvironmentFault("the model of this entry does not answer", field=model, found=response.error().message())
        logits: FloatArray = triton.get_output_tensor_by_name(response, engine.output.name).as_numpy()
        return logits


def _refusal(words: str, code: int) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(words, code))
