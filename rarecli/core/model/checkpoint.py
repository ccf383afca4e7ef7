"""Reads and writes weights and checkpoints: safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rarecli.core.config.run_folder import LAST, PREVIOUS
from rarecli.core.errors import ModelError
from rarecli.core.jobs.files import atomic_file, cannot_write
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.safe_text import utf8_path


def save_weights(path: Path, weights: dict[str, Tensor], facts: dict[str, Any] | None = None, *, keep: Path | None = None) -> None:
    """Write tensors atomically. The file's header holds `facts` as JSON and a SHA-256 of all content.

    keep: the path to which the replaced file is moved. Raises EnvironmentFault if the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    text = json.dumps(facts or {})
    with atomic_file(path, keep=keep) as temporary:
        try:
            save_file(tensors, temporary, {"facts": text, "sha256": _digest(tensors, text)})
        except SafetensorError as error:
            raise cannot_write(path, error) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file that `save_weights` wrote. Raises ModelError for any other file, e.g. a renamed pickle."""
    try:
        path.open("rb").close()  # safetensors calls a file that may not be read a missing one
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            header = file.metadata() or {}
            tensors, text = load_file(readable), header.get("facts", "{}")
        facts = json.loads(text)
    except FileNotFoundError:
        raise ModelError("the weights are missing", path=path, remedy="train first, or choose another model") from None
    except PermissionError:
        raise
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError("not a safetensors file", path=path, found=error, expected="weights that rare wrote") from error
    if "sha256" in header and header["sha256"] != _digest(tensors, text):
        raise ModelError("the file is damaged", path=path, field="sha256", found="content other than what was written")
    return tensors, facts


def save_state(run: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of a training and keep the one before beside it. At any moment one of them is complete."""
    save_weights(run / LAST, tensors, facts, keep=run / PREVIOUS)


def load_state(run: Path, reporter: Reporter = Silent(), *, mend: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the newest intact checkpoint of a run; warn if it is not the newest. Raises ModelError if there is none.

    mend: remove a damaged checkpoint, so that the next write does not replace the intact one by it.
    """
    last, previous = run / LAST, run / PREVIOUS
    if not last.exists():  # killed between the two renames
        return load_tensors(previous)
    try:
        return load_tensors(last)
    except ModelError as error:
        try:
            state = load_tensors(previous)
        except ModelError:
            raise error from None
        reporter.warn(f"{last.name} cannot be used ({error.problem}); using {previous.name}, the checkpoint before it")
        if mend:
            last.unlink(missing_ok=True)
        return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network. Raises ModelError that lists the mismatches, or names a weight that is not finite."""
    put_weights(network, load_tensors(path)[0], path)


def put_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load the tensors of the file at `path` into a network. Raises ModelError as `load_weights` does."""
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
            raise ModelError("a weight is not finite", path=path, field=name, remedy="use an earlier checkpoint")
    network.load_state_dict(tensors)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    """Hash names, types, shapes, bytes and facts. Any changed byte changes the hash or makes the file unreadable."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
