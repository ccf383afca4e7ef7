"""Suites: the rows to measure, as JSON in `rarecli/suites/` or in a user's file, and networks with random weights to measure.

A suite lists sets of rows; each set is the product of its lists.
Decision: docs/decisions/0007-suites-in-the-package.md.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from rarecli.core.config import run_folder
from rarecli.core.config.base import Frozen, Shape
from rarecli.core.config.loading import validate
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import Plan
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.errors import UsageError, missing_extra
from rarecli.core.jobs.files import read_json

ROUTED, UPSAMPLED = "routed", "upsampled"
Method = Literal["routed", "upsampled"]
_SEED = 0


class RowSet(Frozen):
    """Rows: every backend x precision x threads x batch x method, at every depth."""

    backends: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    threads: tuple[PositiveInt | None, ...] = (None,)
    """None: all threads."""
    batches: tuple[PositiveInt, ...] = (1,)
    methods: tuple[Method, ...] = ("routed", "upsampled")
    """routed: the scan enters at its depth. upsampled: the same network is given the scan upsampled to depth 0."""


class Effort(Frozen):
    """How long to measure a row.

    After the warm-up, a row is measured for at least `iterations` and `seconds` in total, spread over `rounds`.
    """

    warm_up_iterations: PositiveInt = 5
    warm_up_seconds: float = Field(default=0.2, ge=0)
    iterations: PositiveInt = 20
    seconds: float = Field(default=1.0, ge=0)
    rounds: PositiveInt = 5


class Suite(Frozen):
    """The content of a suite's file."""

    schema_version: Literal[1] = 1
    name: str
    about: str
    network: NetworkConfig
    patch_size: Shape
    rows: tuple[RowSet, ...]
    effort: Effort = Effort()
    sessions: Literal["together", "one by one"] = "together"
    """together: the rows of all sessions are interleaved. one by one: only the rows of one session are, for networks that fill memory."""
    cold_start: bool = True
    """Whether every row is also started in a separate process, to measure its cold start and its peak memory."""


def suite_names() -> list[str]:
    """Returns the names of the suites in the package."""
    return sorted(item.name.removesuffix(".json") for item in resources.files("rarecli.suites").iterdir() if item.name.endswith(".json"))


def load_suite(name: str) -> Suite:
    """Load a suite of the package by name, or a user's suite by the path of its file. Raises UsageError if there is none."""
    path = Path(name)
    if name in suite_names():
        path = Path(str(resources.files("rarecli.suites").joinpath(f"{name}.json")))
    elif not path.is_file():
        expected = f"{', '.join(suite_names())}, or the path of a JSON file"
        raise UsageError("no such suite", field="suite", found=name, expected=expected)
    return validate(Suite, read_json(path), "the suite", UsageError, path=path)


def random_spec(suite: Suite) -> ModelSpec:
    """Returns the spec of a suite's network with random weights: trained spacing 1 mm, numbered channels and classes, any entry."""
    network = suite.network
    plan = Plan(
        dataset=f"suite {suite.name}",
        channel_names=tuple(f"channel {index}" for index in range(network.in_channels)),
        label_names=("background", *(f"class {index}" for index in range(1, network.num_classes))),
        label_values=tuple(range(network.num_classes)),
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=suite.patch_size,
        num_levels=network.num_levels,
    )
    return ModelSpec(name=f"{suite.name}, random weights", plan=plan, network=network, per_axis=network.num_depths > 1)


def write_random_run(spec: ModelSpec, run: Path) -> None:
    """Write a run of a network with random weights. The weights depend only on the spec and the version of PyTorch."""
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "train") from None
    from safetensors.torch import save_file

    from rarecli.core.model import build_network

    run.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        weights = build_network(spec.network).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, run / run_folder.WEIGHTS)
    info = run_folder.RunInfo(spec=spec, config=TrainConfig(), split={}, versions={"torch": torch.__version__})
    run_folder.save_run_info(run, info)
