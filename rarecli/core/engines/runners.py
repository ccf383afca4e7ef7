"""Opening a model, whatever it is: a run (PyTorch) or a bundle (engines). Predict and benchmark see no difference."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rarecli.core.config import ModelSpec
from rarecli.core.errors import ModelError, UsageError, missing_extra
from rarecli.core.run_folder import WEIGHTS, load_run_spec
from rarecli.core.types import FloatArray

BACKENDS = ("auto", "torch", "onnx")


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
        expected=f"a run, a bundle, or a built-in name ({', '.join(builtin_names()) or 'none in this version'})",
    )


def builtin_names() -> list[str]:
    """Names of the models in the package."""
    folder = resources.files("rarecli") / "models"
    return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []


def open_model(model: Path, backend: str = "auto", device: str = "auto", num_threads: int | None = None) -> tuple[ModelSpec, Runner]:
    """The spec of a model and a runner for it. A run, or a weights file inside one, runs in PyTorch; a bundle by its engines or in PyTorch.

    Raises ModelError for what is no model, UsageError for a backend it has not, EnvironmentFault for a missing extra.
    """
    if backend not in BACKENDS:
        raise UsageError("there is no such backend", field="backend", found=backend, expected=", ".join(BACKENDS))
    kind = model_kind(model)
    if kind == "bundle":
        from rarecli.core.engines.manifest import load_manifest, verify_weights

        manifest = load_manifest(model)
        if backend == "torch":
            return manifest.spec, _open_torch(manifest.spec, verify_weights(model, manifest), device, num_threads)
        from rarecli.core.engines.onnx_runner import OnnxRunner

        return manifest.spec, OnnxRunner(model, manifest, device, num_threads)
    if backend == "onnx":
        raise UsageError(
            "a run has no engines", field="backend", found=backend, expected="auto, torch", remedy="rare export makes a bundle"
        )
    run, weights = (model.parent, model) if kind == "weights" else (model, model / WEIGHTS)
    spec = load_run_spec(run)
    return spec, _open_torch(spec, weights, device, num_threads)


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
