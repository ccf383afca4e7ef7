"""Chooses the device that the network runs on."""

from __future__ import annotations

import torch

from rarecli.core.errors import EnvironmentFault, UsageError

_DEVICES = "auto, cpu, cuda or cuda:N"


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device for auto, cpu, cuda, cuda:N or N. Raises EnvironmentFault if it is missing, UsageError for other names.

    local_rank: the number of this process among those on this machine. With auto and cuda it selects the GPU, in a list (0,1,2) the item.
    """
    if "," in name:
        listed = name.split(",")
        if local_rank is None or local_rank >= len(listed):
            raise UsageError("a list of devices needs several processes of rare train", field="device", found=name, expected=_DEVICES)
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
        raise UsageError("no such device", field="device", found=name, expected=_DEVICES) from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError("this kind of device is not supported", field="device", found=name, expected=_DEVICES)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(
            "no such GPU", field="device", found=f"{torch.cuda.device_count()} GPUs", expected=name, remedy="--device cpu"
        )
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes bfloat16: a GPU that supports it, or a CPU with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.backends.cpu.get_cpu_capability() != "AVX2"
