"""The bundle's manifest: the contract between `rare export` and the consumers that run the engines.

A consumer reads values from it and never derives them. `export/manifest.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config.base import Count, Frozen, Name, Share, Size
from rarecli.core.config.geometry import Entry, entry_text, is_isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging.scan_rules import Depths, EntryRule, ResamplingRule, RoutingRule, ScanRules, WindowRule

MANIFEST = "manifest.json"


Precision = Literal["fp32", "fp16"]
"""Precision of weights and convolutions; input, output and instance norms are always float32."""


ComputePrecision = Literal["fp32", "bf16", "int8"]
"""Precision of the computation in OpenVINO, chosen when a bundle is opened."""

MOST_DICE_LOST = 1e-3
"""`--precision auto` takes a precision that loses less Dice than this at every depth."""


Free = Annotated[int, Field(ge=-1, le=2**16)]
"""One size in the shape of a tensor; -1 is a size that the caller chooses."""


Difference = Annotated[float, Field(ge=0, le=3.4e38)]


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: Name
    dtype: Literal["float32"] = "float32"
    axes: Literal["B,C,X,Y,Z"] = "B,C,X,Y,Z"
    memory_order: Literal["C"] = "C"
    """Z is the fastest axis in memory. (In a NIfTI file it is X.)"""
    shape: tuple[Free, Free, Free, Free, Free]


class HashedFile(Frozen):
    """A file of the bundle: its path inside the bundle, with forward slashes, and its SHA-256 in hexadecimal."""

    file: str = Field(min_length=1, max_length=1024)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Parity(Frozen):
    """The comparison of an engine with PyTorch at export. For several runners, the largest differences."""

    runners: tuple[Name, ...] = Field(max_length=10)
    """The backends that ran it."""
    shapes: tuple[tuple[Size, Size, Size], ...] = Field(max_length=100)
    """Shapes of the phantoms and of the random images."""
    max_abs: Difference
    """Largest difference of a logit on these images."""
    max_rel: Difference
    """The largest difference as a share of the image's largest logit."""
    large_shape: tuple[Size, Size, Size] | None
    """Shape of an image that is mostly constant background; null if it was not tested."""
    large_max_abs: Difference | None
    large_max_rel: Difference | None
    tolerance_rel: Share
    label_changes: Count
    """Voxels whose label differs; at each, PyTorch's two best logits are closer than twice the tolerance."""
    min_dice: Share
    """Smallest Dice between the labels of the engine and of PyTorch, over classes with at least 50 voxels."""


class ConformanceVector(Frozen):
    """One scan with the result of every step: `rarecli/core/engines/conformance.py`."""

    entry: Depths
    scan: HashedFile
    labels: HashedFile
    arrays: HashedFile


class Gpu(Frozen):
    """The GPU that a plan is built on and for."""

    name: Name
    compute_capability: Name


class PlanFacts(HashedFile):
    """A TensorRT plan and the machine and shapes it is for. `ENTRY.plan.json` beside the plan holds the same content."""

    library: Name
    version: Name
    gpu: Gpu | None
    """null: built without a GPU, by TensorRT-RTX."""
    onnx_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    shape_min: tuple[Size, Size, Size, Size, Size]
    shape_opt: tuple[Size, Size, Size, Size, Size]
    shape_max: tuple[Size, Size, Size, Size, Size]
    flags: tuple[Name, ...] = Field(max_length=100)
    parity: Parity | None = None
    """The comparison with PyTorch; null: built but never run, which proves only that the plan compiles."""


class Engine(HashedFile, EntryRule):
    """One entry into the network, as an ONNX graph and optionally also as a TensorRT plan."""

    input: TensorInfo
    output: TensorInfo
    parity: Parity | None
    """null: not compared with PyTorch; only in temporary bundles of a benchmark."""
    plan: PlanFacts | None = None


class MeasuredPrecision(Frozen):
    """What a precision costs on labelled scans. One value per depth: scans reacquired at 1/2^k of their resolution, k = 0, 1, ..."""

    precision: ComputePrecision
    dice: tuple[Share, ...] = Field(min_length=1, max_length=10)
    """Mean over the cases and their labels, the background left out."""
    labels_changed: tuple[Share, ...] = Field(min_length=1, max_length=10)
    """Voxels whose label differs from fp32's, as a share of those that one of both does not call background."""


class PrecisionRecord(Frozen):
    """What every precision of the machine that exported the bundle costs on labelled scans."""

    num_cases: int = Field(ge=1, le=2**62)
    measured: tuple[MeasuredPrecision, ...] = Field(min_length=1, max_length=3)

    @model_validator(mode="after")
    def _check(self) -> PrecisionRecord:
        lengths = {len(values) for one in self.measured for values in (one.dice, one.labels_changed)}
        names = [one.precision for one in self.measured]
        if len(lengths) > 1 or len(set(names)) < len(names) or "fp32" not in names:
            raise ValueError(f"{names} with {sorted(lengths)} depths, expected fp32 and others, each once, with equally many")
        return self

    def dice_lost(self, precision: str) -> float | None:
        """Return the largest fall of the Dice against fp32 at any depth; None if the precision was not measured."""
        dice = {one.precision: one.dice for one in self.measured}
        if precision not in dice:
            return None
        return max(exact - found for exact, found in zip(dice["fp32"], dice[precision], strict=True))

    def allows(self, precision: str) -> bool:
        """Return whether `--precision auto` may take this precision."""
        lost = self.dice_lost(precision)
        return lost is not None and lost < MOST_DICE_LOST


class Manifest(Frozen):
    """The content of manifest.json."""

    schema_version: Literal[5] = 5
    spec: ModelSpec
    precision: Precision
    opset: int = Field(ge=1, le=100)
    conv_transpose: bool = Field(default=True, exclude_if=lambda kept: kept)
    """false: no graph has a ConvTranspose; each is written as Conv, Reshape and Transpose (`rare export --no-conv-transpose`). Absent if
    true, so that earlier versions read the bundle."""
    routing: RoutingRule
    resampling: ResamplingRule = ResamplingRule()
    window: WindowRule = WindowRule()
    weights: HashedFile | None
    """The file with the weights of all graphs; null if each graph holds its own."""
    engines: tuple[Engine, ...] = Field(min_length=1, max_length=1000)
    conformance: tuple[ConformanceVector, ...] = Field(max_length=100)
    versions: dict[Name, Name] = Field(max_length=100)
    precisions: PrecisionRecord | None = Field(default=None, exclude_if=lambda record: record is None)
    """Absent without `rare export --calibrate`, so that earlier versions read the bundle."""

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        entries = [engine.entry for engine in self.engines]
        deepest = max(max(entry) for entry in entries)
        if sorted(self.routing.entries) != sorted(entries) or len(set(entries)) < len(entries) or deepest >= self.spec.network.num_depths:
            raise ValueError(f"routing to {self.routing.entries}, engines {entries}, {self.spec.network.num_depths} depths")
        if self.routing.by == "finest" and not any(is_isotropic(entry) for entry in entries):
            raise ValueError("the finest axis routes to entries with one depth along all axes, and there is none")
        network, plan = self.spec.network, self.spec.plan
        channels = {network.in_channels, len(plan.channel_names), *(engine.input.shape[1] for engine in self.engines)}
        classes = {network.num_classes, plan.num_classes, *(engine.output.shape[1] for engine in self.engines)}
        if len(channels) > 1 or len(classes) > 1:
            raise ValueError(f"the numbers of channels {channels} or of classes {classes} disagree")
        return self

    @property
    def rules(self) -> ScanRules:
        """How a scan becomes labels with these engines."""
        entries = tuple(EntryRule(**{name: getattr(engine, name) for name in EntryRule.model_fields}) for engine in self.engines)
        return ScanRules(spec=self.spec, routing=self.routing, resampling=self.resampling, window=self.window, entries=entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries for which the bundle has engines."""
        return self.routing.entries

    def engine(self, entry: Entry) -> Engine:
        """Return the engine of an entry. Raises UsageError if the bundle has none."""
        for engine in self.engines:
            if engine.entry == entry:
                return engine
        raise UsageError(
            "the bundle has no engine for this entry",
            field="entry",
            found=entry_text(entry),
            expected="; ".join(entry_text(engine.entry) for engine in self.engines),
            remedy="export again with --entries",
        )


if __name__ == "__main__":  # python -m rarecli.core.engines.manifest > export/manifest.schema.json
    sys.stdout.write(json.dumps(Manifest.model_json_schema(mode="serialization"), indent=2) + "\n")
