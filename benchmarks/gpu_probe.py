"""What this machine lacks and what it is, as JSON. `ask` asks a separate process, which a broken package may crash.

python benchmarks/gpu_probe.py cuda|cpu
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_TENSORRT = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx_bindings"}
_NEEDS = ("device", "cuda", *_TENSORRT, "any TensorRT", "onnxruntime CUDA")


def ask(device: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return why each need is not met, by need, and facts about the machine."""
    asked = subprocess.run([sys.executable, str(Path(__file__).resolve()), device], capture_output=True, text=True, check=False)
    try:
        found = json.loads(asked.stdout)
    except ValueError:
        why = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        return dict.fromkeys(_NEEDS, f"this machine cannot be described: {why}"), {}
    return found["missing"], found["machine"]


def probe(device: str) -> dict[str, Any]:
    """Return why each need is not met, by need, and facts about the machine."""
    missing: dict[str, str] = {}
    gpu = None
    if find_spec("torch") is None:
        missing["device"] = missing["cuda"] = "no PyTorch"
    elif device == "cpu":
        missing["cuda"] = "no CUDA with --device cpu"
    else:
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
        else:
            missing["device"] = missing["cuda"] = "no CUDA"
    missing |= {need: f"no {need}" for need, module in _TENSORRT.items() if find_spec(module) is None}
    if all(need in missing for need in _TENSORRT):
        missing["any TensorRT"] = "no TensorRT and no TensorRT-RTX"
    if why := _no_cuda_provider(device):
        missing["onnxruntime CUDA"] = why
    return {"missing": missing, "machine": _facts() | {"gpu": gpu}}


def _no_cuda_provider(device: str) -> str | None:
    if device == "cpu":
        return "no CUDA with --device cpu"
    try:
        import onnxruntime
    except ImportError:
        return "no onnxruntime"
    providers = onnxruntime.get_available_providers()
    return None if "CUDAExecutionProvider" in providers else f"no CUDA provider in onnxruntime: {', '.join(providers)}"


def _facts() -> dict[str, Any]:
    try:
        from rarecli.core.benchmarking.machine import describe_machine

        return describe_machine()
    except Exception as error:
        return {"unknown": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
