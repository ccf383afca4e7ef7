"""The bundle's manifest: the contract between `rare export` and the consumers that run the engines.

A consumer reads values from it and never derives them. `export/manifest.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config.base import Frozen
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import resampling, routing, sliding_window

MANIFEST = "manifest.json"


Precision = Literal["fp32", "fp16"]
"""Precision of weights and convolutions; input, output and instance norms are always float32."""


Depth = Annotated[int, Field(ge=0, lt=10)]
Size = Annotated[int, Field(ge=1, le=2**16)]
Free = Annotated[int, Field(ge=-1, le=2**16)]
"""One size in the shape of a tensor; -1 is a size that the caller chooses."""
Spacing = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: str
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

    runners: tuple[str, ...]
    """The backends that ran the engine."""
    shapes: tuple[tuple[Size, Size, Size], ...]
    """Shapes of the phantoms and of the random images."""
    max_abs: float = Field(ge=0)
    """Largest difference of a logit on these images."""
    max_rel: float = Field(ge=0)
    """The largest difference as a share of the image's largest logit."""
    large_shape: tuple[Size, Size, Size] | None
    """Shape of an image that is mostly constant background; null if it was not tested."""
    large_max_abs: float | None
    large_max_rel: float | None
    tolerance_rel: Share
    label_changes: int = Field(ge=0)
    """Voxels whose label differs; at each, PyTorch's two best logits are closer than twice the tolerance."""
    min_dice: Share
    """Smallest Dice between the labels of the engine and of PyTorch, over classes with at least 50 voxels."""


class ConformanceVector(Frozen):
    """One scan with the result of every step: `rarecli/core/engines/conformance.py`."""

    depth: Depth
    scan: HashedFile
    labels: HashedFile
    arrays: HashedFile


class Gpu(Frozen):
    """The GPU that a plan is built on and for."""

    name: str
    compute_capability: str


class PlanFacts(HashedFile):
    """A TensorRT plan and the machine and shapes it is for. `depthK.plan.json` beside the plan holds the same content."""

    library: str
    version: str
    gpu: Gpu | None
    """null: built without a GPU, by TensorRT-RTX."""
    onnx_sha256: str
    shape_min: tuple[Size, Size, Size, Size, Size]
    shape_opt: tuple[Size, Size, Size, Size, Size]
    shape_max: tuple[Size, Size, Size, Size, Size]
    flags: tuple[str, ...]
    parity: Parity | None = None
    """The comparison with PyTorch; null: built but never run, which proves only that the plan compiles."""


class Engine(HashedFile):
    """One entry into the network, as an ONNX graph and optionally also as a TensorRT plan."""

    depth: Depth
    grid_spacing_mm: tuple[Spacing, Spacing, Spacing]
    input: TensorInfo
    output: TensorInfo
    divisors: tuple[Size, Size, Size]
    """X, Y and Z must be multiples of these."""
    min_shape: tuple[Size, Size, Size]
    patch_shape: tuple[Size, Size, Size]
    """The size of a sliding window."""
    parity: Parity | None
    """null: not compared with PyTorch; only in temporary bundles of a benchmark."""
    plan: PlanFacts | None = None

    @model_validator(mode="after")
    def _check(self) -> Engine:
        for sizes in (self.min_shape, self.patch_shape):
            if any(size % divisor for size, divisor in zip(sizes, self.divisors, strict=True)):
                raise ValueError(f"{sizes} are not multiples of the divisors {self.divisors}")
        if any(least > size for least, size in zip(self.min_shape, self.patch_shape, strict=True)):
            raise ValueError(f"the patch {self.patch_shape} is smaller than the least shape {self.min_shape}")
        return self


class RoutingRule(Frozen):
    """How a consumer routes a scan.

    natural = floor(min over axes of log2(spacing / trained spacing) + 0.5). The engine with the nearest depth runs, the finer of two.
    With ratio = spacing / grid spacing per axis: an axis is not resampled if |ratio - 1| <= tolerance + rounding_slack; no axis is if
    all |log2(ratio)| <= as_is_octaves + rounding_slack and their largest minus their smallest log2(ratio) is at most
    as_is_anisotropy_octaves + rounding_slack.
    """

    orientation: Literal["RAS"] = "RAS"
    """Array axes point right, anterior, superior as closely as flipping and swapping allows."""
    trained_spacing_mm: tuple[Spacing, Spacing, Spacing]
    depths: tuple[Depth, ...] = Field(min_length=1, max_length=10)
    axis: Literal["finest"] = "finest"
    rounding: Literal["half_up"] = "half_up"
    tolerance: Share = routing.TOLERANCE
    as_is_octaves: Share
    """0 for a model that was trained only on its grids."""
    as_is_anisotropy_octaves: Share = routing.AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = Field(default=routing.ROUNDING, ge=0, le=1e-2)


class ResamplingRule(Frozen):
    """How an axis is resampled to the routed grid, and labels back. step = grid spacing / spacing; centres as voxel indices.

    A new voxel is the mean of the old voxels over a box of max(min_box_voxels, step) old voxels around its centre; the old data are
    constant within each voxel. Labels go back axis by axis. Along an axis with step < 1, probabilities (softmax of the logits) are averaged
    over a box of 1 / step new voxels around the centre of the old voxel, and then the best class is taken. Along other axes the label of
    the nearest new voxel is taken.
    """

    kernel: Literal["box"] = "box"
    min_box_voxels: float = Field(default=resampling.MIN_BOX_VOXELS, ge=1, le=64)
    max_step: float = Field(default=resampling.MAX_STEP, ge=1, le=resampling.MAX_STEP)
    """A scan is refused if, along an axis, a new voxel would span more old voxels than this, or an old voxel more new voxels."""
    max_growth: float = Field(default=resampling.MAX_GROWTH, ge=1, le=resampling.MAX_GROWTH)
    """A scan is refused if its number of voxels would grow by more than this factor."""
    size: Literal["old size / step, rounded half up, at least 1"] = "old size / step, rounded half up, at least 1"
    origin: Literal["the middles of both grids coincide"] = "the middles of both grids coincide"
    border: Literal["repeat the last voxel"] = "repeat the last voxel"
    labels_back: Literal["step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"] = (
        "step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"
    )


class WindowRule(Frozen):
    """Padding and sliding windows, per axis, after normalisation.

    size <= patch: padded at the end with 0 to the next multiple of the divisor, at least min_shape and at most the patch; one window.
    size > patch: num = ceil((size - patch) / (patch * (1 - overlap))) + 1 windows of the patch size; window i starts at
    i * (size - patch) / (num - 1), rounded half up. Logits are averaged with weights exp(-0.5 * ((i - (n - 1) / 2) / (sigma * n))^2)
    along each axis of n voxels, multiplied over the axes, at least min_weight.
    """

    overlap: float = Field(default=sliding_window.OVERLAP, ge=0, le=0.9)
    weights: Literal["gaussian"] = "gaussian"
    sigma: float = Field(default=sliding_window.SIGMA, gt=0, le=10)
    min_weight: float = Field(default=sliding_window.MIN_WEIGHT, gt=0, le=1)
    padding_value: float = Field(default=0.0, ge=-1e6, le=1e6)
    padding_side: Literal["behind"] = "behind"


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
    """The file with the weights of all graphs; null if each graph holds its own."""
    engines: tuple[Engine, ...]
    conformance: tuple[ConformanceVector, ...]
    versions: dict[str, str]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths for which the bundle has engines."""
        return self.routing.depths

    def engine(self, depth: int) -> Engine:
        """Return the engine of a depth. Raises UsageError if the bundle has none."""
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
