"""Runs the network in PyTorch."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor

from rarecli.core.model import RareUNet
from rarecli.core.types import Entry, FloatArray


class TorchRunner:
    """A network in evaluation mode, float32, or with bfloat16 autocast (amp). entries: those that can be run. See `runner.Runner`."""

    backend = "torch"

    def __init__(self, network: RareUNet, device: torch.device, entries: tuple[Entry, ...], amp: bool = False) -> None:
        self.network, self.device = network.to(device).eval(), torch.device(device)
        self.entries, self.amp = entries, amp

    def __enter__(self) -> TorchRunner:
        # denormal numbers of a saturated network make a CPU many times slower
        torch.set_flush_denormal(True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_flush_denormal(False)

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32."""
        logits: FloatArray = self.run_there(torch.from_numpy(image).to(self.device), entry).cpu().numpy()
        return logits

    def run_there(self, image: Tensor, entry: Entry) -> Tensor:
        """Like `run`, with tensors that stay on the device."""
        self.network.eval()
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits: Tensor = self.network(image, entry).float()
        return logits
