"""The bundle's manifest: the contract between `rare export` and whoever runs the engines.

A consumer looks up; it never re-derives. `export/manifest.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config.base import Count, Frozen, Name, Size
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging.scan_rules import Depth, Entry, ResamplingRule, RoutingRule, ScanRules, Share, WindowRule

MANIFEST = "manifest.json"


Precision = Literal["fp32", "fp16"]
"""Of the weights and convolutions; input, output and instance norms are float32 in either."""


Free = Annotated[int, Field(ge=-1, le=2**16)]
"""A size of a tensor's shape; -1 is one that the caller chooses."""


Difference = Annotated[float, Field(ge=0, le=3.4e38)]


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: Name
    dtype: Literal["float32"] = "float32"
    axes: Literal["B,C,X,Y,Z"] = "B,C,X,Y,Z"
    memory_order: Literal["C"] = "C"
    """Z is the fastest axis in memory. (In a NIfTI file X is.)"""
    shape: tuple[Free, Free, Free, Free, Free]


class HashedFile(Frozen):
    """A file of the bundle: its path inside, with forward slashes, and its SHA-256 in hexadecimal."""

    file: str = Field(min_length=1, max_length=1024)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Parity(Frozen):
    """How an engine compared with PyTorch when it was exported. Of several runners, the largest difference counts."""

    runners: tuple[Name, ...] = Field(max_length=10)
    """The backends that ran it."""
    shapes: tuple[tuple[Size, Size, Size], ...] = Field(max_length=100)
    """Shapes of the phantoms and of the random images."""
    max_abs: Difference
    """Largest difference of a logit on these."""
    max_rel: Difference
    """The same as a share of the image's largest logit."""
    large_shape: tuple[Size, Size, Size] | None
    """Shape of an image that is mostly constant background; null if none was tried."""
    large_max_abs: Difference | None
    large_max_rel: Difference | None
    tolerance_rel: Share
    label_changes: Count
    """Voxels whose label differs; at each, PyTorch's two best logits are closer than twice the tolerance."""
    min_dice: Share
    """Least Dice of the engine's labels with PyTorch's over classes of at least 50 voxels."""


class ConformanceVector(Frozen):
    """One scan with every step written down: `rarecli/core/engines/conformance.py`."""

    depth: Depth
    scan: HashedFile
    labels: HashedFile
    arrays: HashedFile


class Gpu(Frozen):
    """The GPU that a plan is built on and for."""

    name: Name
    compute_capability: Name


class PlanFacts(HashedFile):
    """A TensorRT plan and what it is for. The same stands beside it, in `depthK.plan.json`."""

    library: Name
    version: Name
    gpu: Gpu | None
    """None: built without one, by TensorRT-RTX."""
    onnx_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    shape_min: tuple[Size, Size, Size, Size, Size]
    shape_opt: tuple[Size, Size, Size, Size, Size]
    shape_max: tuple[Size, Size, Size, Size, Size]
    flags: tuple[Name, ...] = Field(max_length=100)
    parity: Parity | None = None
    """How it compared with PyTorch when it ran; null: built, never run. Building proves that a plan compiles, no more."""


class Engine(HashedFile, Entry):
    """One entry into the network, as an ONNX graph; if asked for, as a TensorRT plan, too."""

    input: TensorInfo
    output: TensorInfo
    parity: Parity | None
    """null: not compared with PyTorch; only in bundles that a benchmark makes for itself."""
    plan: PlanFacts | None = None


class Manifest(Frozen):
    """The content of manifest.json."""

    schema_version: Literal[3] = 3
    spec: ModelSpec
    precision: Precision
    opset: int = Field(ge=1, le=100)
    routing: RoutingRule
    resampling: ResamplingRule = ResamplingRule()
    window: WindowRule = WindowRule()
    weights: HashedFile | None
    """Where the graphs keep their weights; null if each holds its own."""
    engines: tuple[Engine, ...] = Field(min_length=1, max_length=10)
    conformance: tuple[ConformanceVector, ...] = Field(max_length=100)
    versions: dict[Name, Name] = Field(max_length=100)

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        depths = [engine.depth for engine in self.engines]
        if sorted(self.routing.depths) != sorted(depths) or len(set(depths)) < len(depths) or max(depths) >= self.spec.network.num_depths:
            raise ValueError(f"routing to depths {self.routing.depths}, engines {depths}, entries {self.spec.network.num_depths}")
        network, plan = self.spec.network, self.spec.plan
        channels = {network.in_channels, len(plan.channel_names), *(engine.input.shape[1] for engine in self.engines)}
        classes = {network.num_classes, plan.num_classes, *(engine.output.shape[1] for engine in self.engines)}
        if len(channels) > 1 or len(classes) > 1:
            raise ValueError(f"the numbers of channels {channels} or of classes {classes} disagree")
        return self

    @property
    def rules(self) -> ScanRules:
        """How a scan becomes labels with these engines."""
        entries = tuple(Entry(**{name: getattr(engine, name) for name in Entry.model_fields}) for engine in self.engines)
        return ScanRules(spec=self.spec, routing=self.routing, resampling=self.resampling, window=self.window, entries=entries)

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths that the bundle has engines for."""
        return self.routing.depths

    def engine(self, depth: int) -> Engine:
        """The engine of a depth. Raises UsageError if the bundle has none."""
        for engine in self.engines:
            if engine.depth == depth:
                return engine
        raise UsageError(
            "the bundle has no engine for this depth",
            field="depth",
            found=depth,
            expected=", ".join(str(engine.depth) for engine in self.engines),
            remedy="export again with --depths",
        )


if __name__ == "__main__":  # python -m rarecli.core.engines.manifest > export/manifest.schema.json
    sys.stdout.write(json.dumps(Manifest.model_json_schema(mode="serialization"), indent=2) + "\n")
