"""Opens any model: a run (PyTorch) or a bundle (engines). Predict and benchmark use both in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import Engine
from rarecli.core.engines.model_cache import open_cache
from rarecli.core.engines.model_files import ModelFiles, find_model
from rarecli.core.engines.runner import Runner
from rarecli.core.engines.tensorrt_build import runs_here
from rarecli.core.errors import EnvironmentFault, UsageError, missing_extra
from rarecli.core.imaging.scan_rules import ScanRules

BACKENDS = ("torch", "onnx", "openvino", "tensorrt")
PRECISIONS = ("fp32", "bf16", "int8")
_PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


def open_model(
    model: Path,
    backend: str = "auto",
    device: str = "auto",
    num_threads: int | None = None,
    precision: str = "fp32",
    *,
    cached: bool = False,
) -> tuple[ScanRules, Runner]:
    """A model's rules and a runner for it. Engines are opened when an entry is first needed.

    backend: auto, torch, onnx, openvino, tensorrt; auto is torch for a run, and the fastest installed backend for a bundle.
    num_threads: CPU threads; all by default. precision: fp32, or bf16 or int8 with openvino on a CPU that supports it.
    cached: use the user's cache of compiled models, with openvino. It is for predicting; a check or a measurement compiles anew.
    Raises UsageError for a backend that the model does not support, EnvironmentFault for a backend that is not installed.
    """
    if backend not in ("auto", *BACKENDS):
        raise UsageError("no such backend", field="backend", found=backend, expected=f"auto, {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise UsageError("no such precision", field="precision", found=precision, expected=", ".join(PRECISIONS))
    files = find_model(model)
    if files.bundle is None and backend not in ("auto", "torch"):
        raise UsageError(
            "a run has no engines", field="backend", found=backend, expected="auto, torch", remedy="rare export makes a bundle"
        )
    if backend == "auto":
        backend = _fastest(files.bundle, device) if files.bundle else "torch"
    if precision != "fp32" and backend != "openvino":
        raise UsageError("this backend computes in fp32", field="precision", found=precision, expected="--backend openvino, with a bundle")
    if files.bundle is None or backend == "torch":
        return files.rules, _open_torch(files, device, num_threads)
    return files.rules, _open_engines(files.bundle, backend, device, num_threads, precision, cached)


def choose_precision(models: Sequence[Path], backend: str = "auto", device: str = "auto") -> str:
    """Return the precision that `auto` stands for: the lowest that this CPU computes and the records of all models allow, else fp32.

    fp32 also for runs, for bundles without a record (`rare export --calibrate`), and where another backend than openvino is used.
    """
    for precision in ("int8", "bf16"):
        if models and all(_allows(model, precision, backend, device) for model in models):
            return precision
    return "fp32"


def precision_fault(bundle: Path, precision: str) -> str | None:
    """Return why a bundle cannot be computed in a precision here; None if it can."""
    try:
        open_model(bundle, "openvino", "cpu", precision=precision)
    except EnvironmentFault as fault:
        return fault.problem
    return None


def _allows(model: Path, precision: str, backend: str, device: str) -> bool:
    bundle = find_model(model).bundle
    if bundle is None or not (record := bundle.manifest.precisions) or not record.allows(precision):
        return False
    used = _fastest(bundle, device) if backend == "auto" else backend
    return used == "openvino" and precision_fault(model, precision) is None


def open_reference(model: Path, backend: str) -> Runner | None:
    """A runner on the CPU to compare `backend` with: PyTorch if it is installed and can load the weights, else another, else None."""
    files = find_model(model)
    has_weights = files.bundle is None or files.bundle.manifest.weights is not None
    for other in ("torch", "onnx", "openvino"):
        if other != backend and find_spec(_PACKAGES[other]) is not None and (other != "torch" or has_weights):
            return open_model(model, other, "cpu")[1]
    return None


def _fastest(bundle: Bundle, device: str) -> str:
    """Return the fastest installed backend for a bundle: tensorrt with usable plans and a GPU allowed, openvino on a CPU."""
    wanted = ["onnx", "torch"]
    if device in ("auto", "cpu"):
        wanted.insert(0, "openvino")
    if device in ("auto", "cuda", "cuda:0") and find_spec("polygraphy") and all(map(_takes_every_window, bundle.manifest.engines)):
        plans = [engine.plan for engine in bundle.manifest.engines if engine.plan]
        if runs_here(plans):
            return "tensorrt"
    for backend in wanted:
        if find_spec(_PACKAGES[backend]) is not None:
            return backend
    raise missing_extra("onnxruntime", "cpu")


def _takes_every_window(engine: Engine) -> bool:
    """Return whether an engine's plan accepts every window of prediction, from the least shape to the patch."""
    if engine.plan is None:
        return False
    small = all(low <= size for low, size in zip(engine.plan.shape_min[2:], engine.min_shape, strict=True))
    return small and all(high >= size for high, size in zip(engine.plan.shape_max[2:], engine.patch_shape, strict=True))


def _open_engines(bundle: Bundle, backend: str, device: str, num_threads: int | None, precision: str, cached: bool) -> Runner:
    if backend == "openvino":
        from rarecli.core.engines.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(bundle, device, num_threads, precision, open_cache() if cached else None)
    if backend == "tensorrt":
        from rarecli.core.engines.tensorrt_runner import TensorRtRunner

        return TensorRtRunner(bundle, device)
    from rarecli.core.engines.onnx_runner import OnnxRunner

    return OnnxRunner(bundle, device, num_threads)


def _open_torch(files: ModelFiles, device: str, num_threads: int | None) -> Runner:
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "train") from None
    from rarecli.core.engines.torch_runner import TorchRunner
    from rarecli.core.model import build_network
    from rarecli.core.model.checkpoint import load_weights
    from rarecli.core.model.device import choose_device

    if num_threads:
        torch.set_num_threads(num_threads)
    network = build_network(files.spec.network)
    load_weights(network, files.weights)
    return TorchRunner(network, choose_device(device), files.bundle.manifest.entries if files.bundle else files.spec.entries)
