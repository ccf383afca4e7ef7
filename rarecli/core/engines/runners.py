"""Opening a model, whatever it is: a run (PyTorch) or a bundle (engines). Predict and benchmark see no difference."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rarecli.core.config import ModelSpec
from rarecli.core.errors import ModelError, UsageError, missing_extra
from rarecli.core.run_folder import WEIGHTS, load_run_spec
from rarecli.core.types import FloatArray

BACKENDS = ("torch", "onnx", "openvino")
PRECISIONS = ("fp32", "bf16")


class Runner(Protocol):
    """The network at any depth, between entering and leaving the context."""

    backend: str

    def __enter__(self) -> Runner: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, image: FloatArray, depth: int) -> FloatArray:
        """(B, C, X, Y, Z) float32, axes multiples of the depth's divisor -> logits (B, K, X, Y, Z) float32."""


def model_kind(path: Path) -> str:
    """run, bundle or weights (a weights file inside a run). Raises ModelError for anything else."""
    if (path / "run.json").is_file():
        return "run"
    if (path / "manifest.json").is_file():
        return "bundle"
    if path.suffix == ".safetensors" and (path.parent / "run.json").is_file():
        return "weights"
    raise ModelError(
        "this is no model",
        path=path,
        found="no such file or folder" if not path.exists() else "neither run.json nor manifest.json",
        expected="a run, a bundle, or a weights file inside a run",
    )


def open_model(
    model: Path, backend: str = "auto", device: str = "auto", num_threads: int | None = None, precision: str = "fp32"
) -> tuple[ModelSpec, Runner]:
    """The spec of a model and a runner for it. A run, or a weights file inside one, runs in PyTorch; a bundle by its engines or in PyTorch.

    backend: one of BACKENDS, or auto for the fastest that is installed. precision: that of computing, one of PRECISIONS; bf16
    needs openvino and a CPU that has it. Raises ModelError for what is no model, UsageError for a backend it has not,
    EnvironmentFault for a missing extra.
    """
    if backend not in ("auto", *BACKENDS):
        raise UsageError("there is no such backend", field="backend", found=backend, expected=", ".join(("auto", *BACKENDS)))
    if precision not in PRECISIONS:
        raise UsageError("there is no such precision", field="precision", found=precision, expected=", ".join(PRECISIONS))
    kind = model_kind(model)
    if kind != "bundle" and backend not in ("auto", "torch"):
        raise UsageError(
            "a run has no engines", field="backend", found=backend, expected="auto, torch", remedy="rare export makes a bundle"
        )
    if backend == "auto":
        backend = _fastest(device) if kind == "bundle" else "torch"
    if precision != "fp32" and backend != "openvino":
        raise UsageError("this backend computes in fp32", field="precision", found=precision, expected="--backend openvino, with a bundle")
    if kind != "bundle":
        run, weights = (model.parent, model) if kind == "weights" else (model, model / WEIGHTS)
        spec = load_run_spec(run)
        return spec, _open_torch(spec, weights, device, num_threads)
    from rarecli.core.engines.manifest import load_manifest, verify_file

    manifest = load_manifest(model)
    if backend == "torch":
        if manifest.weights is None:
            raise UsageError(
                "a self-contained bundle has no weights for PyTorch", field="backend", found=backend, expected="onnx, openvino"
            )
        return manifest.spec, _open_torch(manifest.spec, verify_file(model, manifest.weights), device, num_threads)
    if backend == "openvino":
        from rarecli.core.engines.openvino_runner import OpenVinoRunner

        return manifest.spec, OpenVinoRunner(model, manifest, device, num_threads, precision)
    from rarecli.core.engines.onnx_runner import OnnxRunner

    return manifest.spec, OnnxRunner(model, manifest, device, num_threads)


def _fastest(device: str) -> str:
    """The fastest backend for a bundle that is installed: openvino on a CPU, else onnxruntime, else PyTorch."""
    wanted = ("openvino", "onnx", "torch") if device in ("auto", "cpu") else ("onnx", "torch")
    packages = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}
    for backend in wanted:
        if find_spec(packages[backend]) is not None:
            return backend
    raise missing_extra("onnxruntime", "cpu")


def _open_torch(spec: ModelSpec, weights: Path, device: str, num_threads: int | None) -> Runner:
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "train") from None
    from rarecli.core.checkpoint import load_weights
    from rarecli.core.engines.torch_runner import TorchRunner, choose_device
    from rarecli.core.model import build_network

    if num_threads:
        torch.set_num_threads(num_threads)
    network = build_network(spec.network)
    load_weights(network, weights)
    return TorchRunner(network, choose_device(device))
