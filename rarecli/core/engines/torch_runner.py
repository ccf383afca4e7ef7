"""Running the network itself, in PyTorch."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor

from rarecli.core.errors import EnvironmentFault, UsageError
from rarecli.core.model import RareUNet
from rarecli.core.types import FloatArray

_DEVICES = "auto, cpu, cuda or cuda:N"


class TorchRunner:
    """A network in evaluation mode, float32. depths: those that may be entered, all by default. See `runners.Runner`."""

    backend = "torch"

    def __init__(self, network: RareUNet, device: torch.device, depths: tuple[int, ...] | None = None) -> None:
        self.network, self.device = network.to(device).eval(), device
        self.depths = depths or tuple(range(network.num_depths))

    def __enter__(self) -> TorchRunner:
        # denormal numbers of a saturated network slow a CPU down many times
        torch.set_flush_denormal(True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_flush_denormal(False)

    def run(self, image: FloatArray, depth: int) -> FloatArray:
        """(B, C, X, Y, Z) float32 -> logits (B, K, X, Y, Z) float32."""
        logits: FloatArray = self.run_there(torch.from_numpy(image).to(self.device), depth).cpu().numpy()
        return logits

    def run_there(self, image: Tensor, depth: int) -> Tensor:
        """The same with tensors, which stay on the device."""
        self.network.eval()
        with torch.inference_mode():
            logits: Tensor = self.network(image, depth).float()
        return logits


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """auto, cpu, cuda, cuda:N or N -> a device that is there. Raises EnvironmentFault if it is not, UsageError for another word.

    local_rank: of several processes on this machine; with auto and cuda each takes the GPU of its number, of a list (0,1,2) its own.
    """
    if "," in name:
        listed = name.split(",")
        if local_rank is None or local_rank >= len(listed):
            raise UsageError("a list of devices is for several processes of rare train", field="device", found=name, expected=_DEVICES)
        name = listed[local_rank].strip()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    if name.isdigit():
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("there is no such device", field="device", found=name, expected=_DEVICES) from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError("this kind of device is not supported", field="device", found=name, expected=_DEVICES)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(
            "there is no such GPU", field="device", found=f"{torch.cuda.device_count()} GPUs", expected=name, remedy="--device cpu"
        )
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware: on a GPU that knows it, on a CPU with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.backends.cpu.get_cpu_capability() != "AVX2"
