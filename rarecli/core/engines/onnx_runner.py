"""Runs the ONNX engines of a bundle in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.runner import engine_errors, require_tensors
from rarecli.core.errors import EnvironmentFault, UsageError, missing_extra
from rarecli.core.jobs.safe_text import utf8_path
from rarecli.core.types import Entry, FloatArray

_ERROR = 3
"""onnxruntime's severity of errors."""


def open_session(file: Path, providers: list[Any], num_threads: int | None = None) -> Any:
    """Return an onnxruntime session for a graph. It writes errors on stderr, but no warnings.

    onnxruntime warns of every node that it cannot compute beforehand: hundreds of lines in fp16, about nothing that a user could change.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if num_threads:
        options.intra_op_num_threads = num_threads
    with utf8_path(file) as path:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


class OnnxRunner:
    """One onnxruntime session per entry, opened at its first use. See `runner.Runner`."""

    backend = "onnx"

    def __init__(self, bundle: Bundle, device: str = "auto", num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise missing_extra("onnxruntime", "cpu") from None
        self._ort = onnxruntime
        self._bundle, self._num_threads = bundle, num_threads
        self.entries = bundle.manifest.entries
        self._providers = self._choose_providers(device)
        self._sessions: dict[Entry, Any] = {}

    def __enter__(self) -> OnnxRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sessions.clear()

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32."""
        engine = self._bundle.manifest.engine(entry)
        with engine_errors(self._bundle.path / engine.file):
            session = self._sessions.get(entry) or self._open(entry)
            logits: FloatArray = session.run([engine.output.name], {engine.input.name: image})[0]
        return logits

    def _open(self, entry: Entry) -> Any:
        session = open_session(self._bundle.engine_file(entry), self._providers, self._num_threads)
        engine = self._bundle.manifest.engine(entry)
        require_tensors(engine, [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()])
        self._sessions[entry] = session
        return session

    def _choose_providers(self, device: str) -> list[Any]:
        available = self._ort.get_available_providers()
        wanted, _, number = device.partition(":")
        if wanted not in ("auto", "cpu", "cuda") or (number and not (wanted == "cuda" and number.isdecimal())):
            raise UsageError("no such device", field="device", found=device, expected="auto, cpu, cuda or cuda:N")
        if wanted == "cuda" and "CUDAExecutionProvider" not in available:
            raise EnvironmentFault(
                "this onnxruntime does not support CUDA", field="device", found=", ".join(available), remedy='pip install "rare-unet[gpu]"'
            )
        if wanted != "cpu" and "CUDAExecutionProvider" in available:
            return [("CUDAExecutionProvider", {"device_id": number or "0"}), "CPUExecutionProvider"]
        return ["CPUExecutionProvider"]
