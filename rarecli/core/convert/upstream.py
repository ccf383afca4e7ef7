"""Read files of the released RARE-UNet (github.com/simonwinther/RARE-UNet): its checkpoints and its prepared cases.

The files are pickles. Only tensors and plain containers are read from them (`weights_only`), so no code in them can run.
Decision: docs/decisions/0013-released-weights.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.errors import ModelError, RareError
from rarecli.core.jobs.safe_text import read_yaml

_RENAMED = (
    (r"encoders\.(\d+)\.conv\.(.+)", "encoder.{0}.{1}"),
    (r"bn\.conv\.(.+)", "bottleneck.{0}"),
    (r"msb_blocks\.(\d+)\.conv\.(.+)", "gateways.{0}.{1}"),
    (r"final_conv\.(.+)", "heads.0.{0}"),
)
"""Patterns of weight names in a checkpoint, and the names here. `_rename` covers the decoder, numbered from the deepest level in a
checkpoint, and the heads of the gateways."""
_KNOWN_BLOCK = {"norm_type": "instance", "activation_type": "leaky_relu"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights (float32, under their names here), their network, and the configuration as far as it is known."""

    weights: dict[str, Tensor]
    network: NetworkConfig
    config: dict[str, Any]
    epoch: int | None

    def setting(self, group: str, key: str) -> Any:
        """Return a value of the configuration, or None if it is not set."""
        part = self.config.get(group)
        return part.get(key) if isinstance(part, dict) else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `best_model.pth`. Its configuration is in the file or in `config.yaml` next to it; sizes are taken from the weights.

    Raises ModelError for a file that is not such a checkpoint, and for blocks that the network here does not have.
    """
    content = load_plain(path, ModelError)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise ModelError("not a RARE-UNet checkpoint", path=path, found=found, expected="model_state_dict, config, ...")
    config = _plain(content.get("config"))
    if not isinstance(config, dict):
        config = _read_yaml(path.parent / "config.yaml")
    state = {str(name).removeprefix("module."): value.detach().float() for name, value in state.items()}
    _require_known_blocks(config, path)
    epoch = content.get("epoch")
    network, num_levels = _network(state, config, path)
    weights = {_rename(name, num_levels): value for name, value in state.items()}
    return Checkpoint(weights, network, config, epoch if isinstance(epoch, int) else None)


def load_plain(path: Path, kind: type[RareError]) -> Any:
    """Load a file of `torch.save` that holds tensors in plain containers. An OmegaConf configuration in it becomes an inert object.

    Raises `kind` for anything else; none of its code has run then.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (RuntimeError, UnpicklingError, OSError, ValueError, EOFError):
        names = []  # the old format, or a broken file: torch.load tells them apart
    inert: list[Any] = [(_Inert, name) for name in names if name.startswith("omegaconf.") or name in _HARMLESS]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise kind("no such file", path=path, expected="a file of torch.save") from None
    except UnpicklingError as error:
        raise kind(
            "the file holds more than tensors and plain containers, or is not from torch.save; none of it was run",
            path=path,
            found=_first_line(error),
            remedy="re-save it where it was made, e.g. torch.save({'model_state_dict': ..., 'config': OmegaConf.to_container(cfg)}, ...)",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise kind("the file cannot be read", path=path, found=_first_line(error)) from error


_HARMLESS = ("typing.Any", "typing.Union", "typing.Optional", "collections.defaultdict", "builtins.dict", "builtins.list", "builtins.int")
"""Names that OmegaConf's containers refer to besides their own classes; also read as inert objects."""


class _Inert:
    """Stands in for a class that a checkpoint names: accepts its state and does nothing."""

    def __init__(self, *_: Any) -> None:
        self.items: dict[Any, Any] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Accept an item of a pickled mapping."""
        self.items[key] = value


def _plain(value: Any) -> Any:
    """Return plain containers for an OmegaConf configuration that was read as inert objects."""
    if isinstance(value, _Inert):
        state = vars(value)
        return _plain(state.get("_content", state.get("_val")))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_yaml(path, ModelError)
    return content if isinstance(content, dict) else {}


def _require_known_blocks(config: dict[str, Any], path: Path) -> None:
    architecture = config.get("architecture")
    for key, known in _KNOWN_BLOCK.items():
        found = architecture.get(key, known) if isinstance(architecture, dict) else known
        if str(found).lower() != known:
            raise ModelError(
                "the network here does not have these blocks", path=path, field=f"architecture.{key}", found=found, expected=known
            )


def _network(state: dict[str, Tensor], config: dict[str, Any], path: Path) -> tuple[NetworkConfig, int]:
    """Return the network's configuration and its number of levels. Sizes come from the shapes of the weights."""
    num_levels = len({name.split(".")[1] for name in state if name.startswith("encoders.")})
    num_depths = 1 + len({name.split(".")[1] for name in state if name.startswith("ms_heads.")})
    first, last = state.get("encoders.0.conv.0.weight"), state.get("final_conv.weight")
    if first is None or last is None or first.ndim != 5 or last.ndim != 5:
        raise ModelError("not the weights of a RARE-UNet", path=path, found=", ".join(list(state)[:4]), expected="encoders.0.conv.0.weight")
    architecture = config.get("architecture")
    dropout = architecture.get("dropout") if isinstance(architecture, dict) else None
    network = NetworkConfig(
        arch="rare-unet" if num_depths > 1 else "unet",
        in_channels=first.shape[1],
        num_classes=last.shape[0],
        num_filters=first.shape[0],
        num_levels=num_levels,
        num_depths=min(num_depths, num_levels),
        dropout=dropout if isinstance(dropout, float) and 0 <= dropout < 1 else 0.0,
    )
    return network, num_levels


def _rename(name: str, num_levels: int) -> str:
    """Return a weight's name here. An unknown name is kept; it is reported as surplus when the weights are loaded."""
    for pattern, ours in _RENAMED:
        if match := re.fullmatch(pattern, name):
            return ours.format(*match.groups())
    if match := re.fullmatch(r"(up_convs|decoders)\.(\d+)\.(.+)", name):
        part, index, rest = match.groups()
        return f"decoder.{num_levels - 1 - int(index)}.{'up.' if part == 'up_convs' else ''}{rest}"
    if match := re.fullmatch(r"ms_heads\.(\d+)\.(.+)", name):
        return f"heads.{int(match[1]) + 1}.{match[2]}"
    return name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
