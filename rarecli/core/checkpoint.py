"""Weights in and out: safetensors, never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rarecli.core.errors import EnvironmentFault, ModelError
from rarecli.core.files import atomic_file


def save_weights(path: Path, weights: dict[str, Tensor], facts: dict[str, Any] | None = None) -> None:
    """Write tensors, and `facts` as JSON in the file's header, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, {"facts": json.dumps(facts or {})})
        except SafetensorError as error:
            raise EnvironmentFault("cannot write the weights", path=path, found=error, remedy="free some space") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file that `save_weights` wrote. Raises ModelError for anything else, a renamed pickle included."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        return load_file(path), facts
    except FileNotFoundError:
        raise ModelError("the weights are missing", path=path, remedy="train first, or choose another model") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError("this is no safetensors file", path=path, found=error, expected="weights that rare wrote") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network. Raises ModelError listing what does not fit, or naming a weight that is not finite."""
    put_weights(network, load_tensors(path)[0], path)


def put_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the tensors of the file at `path` into a network. Raises ModelError as `load_weights` does."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        missing = sorted(wanted.keys() - found.keys())
        surplus = sorted(found.keys() - wanted.keys())
        other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
        raise ModelError(
            "the weights do not fit the network",
            path=path,
            found="; ".join(
                f"{len(names)} {what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
                for what, names in (("missing", missing), ("surplus", surplus), ("of another shape", other))
                if names
            ),
            expected="weights of a network of the same size",
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError("a weight is not finite", path=path, field=name)
    network.load_state_dict(tensors)
