"""The bundle's manifest: the contract between `rare export` and whoever runs the engines.

A consumer looks up; it never re-derives. `export/manifest.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from rarecli.core.config.base import Frozen
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import resampling, routing, sliding_window

MANIFEST = "manifest.json"


Precision = Literal["fp32", "fp16"]
"""Of the weights and convolutions; input, output and instance norms are float32 in either."""


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: str
    dtype: Literal["float32"] = "float32"
    axes: Literal["B,C,X,Y,Z"] = "B,C,X,Y,Z"
    memory_order: Literal["C"] = "C"
    """Z is the fastest axis in memory. (In a NIfTI file X is.)"""
    shape: tuple[int, int, int, int, int]


class HashedFile(Frozen):
    """A file of the bundle: its path inside, with forward slashes, and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


class Parity(Frozen):
    """How an engine compared with PyTorch when it was exported. Of several runners, the largest difference counts."""

    runners: tuple[str, ...]
    """The backends that ran it."""
    shapes: tuple[tuple[int, int, int], ...]
    """Shapes of the phantoms and of the random images."""
    max_abs: float
    """Largest difference of a logit on these."""
    max_rel: float
    """The same as a share of the image's largest logit."""
    large_shape: tuple[int, int, int] | None
    """Shape of an image that is mostly constant background; null if none was tried."""
    large_max_abs: float | None
    large_max_rel: float | None
    tolerance_rel: float
    label_changes: int
    """Voxels whose label differs; at each, PyTorch's two best logits are closer than twice the tolerance."""
    min_dice: float
    """Least Dice of the engine's labels with PyTorch's over classes of at least 50 voxels."""


class ConformanceVector(Frozen):
    """One scan with every step written down: `rarecli/core/engines/conformance.py`."""

    depth: int
    scan: HashedFile
    labels: HashedFile
    arrays: HashedFile


class Gpu(Frozen):
    """The GPU that a plan is built on and for."""

    name: str
    compute_capability: str


class PlanFacts(HashedFile):
    """A TensorRT plan and what it is for. The same stands beside it, in `depthK.plan.json`."""

    library: str
    version: str
    gpu: Gpu | None
    """None: built without one, by TensorRT-RTX."""
    onnx_sha256: str
    shape_min: tuple[int, int, int, int, int]
    shape_opt: tuple[int, int, int, int, int]
    shape_max: tuple[int, int, int, int, int]
    flags: tuple[str, ...]
    parity: Parity | None = None
    """How it compared with PyTorch when it ran; null: built, never run. Building proves that a plan compiles, no more."""


class Engine(HashedFile):
    """One entry into the network, as an ONNX graph; if asked for, as a TensorRT plan, too."""

    depth: int
    grid_spacing_mm: tuple[float, float, float]
    input: TensorInfo
    output: TensorInfo
    divisors: tuple[int, int, int]
    """X, Y and Z must be multiples of these."""
    min_shape: tuple[int, int, int]
    patch_shape: tuple[int, int, int]
    """The size of a sliding window."""
    parity: Parity | None
    """null: not compared with PyTorch; only in bundles that a benchmark makes for itself."""
    plan: PlanFacts | None = None


class RoutingRule(Frozen):
    """How a consumer routes a scan.

    natural = floor(min over axes of log2(spacing / trained spacing) + 0.5); the engine of the nearest depth, the finer of two.
    With ratio = spacing / grid spacing per axis: an axis is not resampled if |ratio - 1| <= tolerance + rounding_slack; no axis is if
    all |log2(ratio)| <= as_is_octaves + rounding_slack and their largest minus their smallest log2(ratio) is at most
    as_is_anisotropy_octaves + rounding_slack.
    """

    orientation: Literal["RAS"] = "RAS"
    """Array axes point right, anterior, superior as nearly as flipping and swapping can bring them."""
    trained_spacing_mm: tuple[float, float, float]
    depths: tuple[int, ...]
    axis: Literal["finest"] = "finest"
    rounding: Literal["half_up"] = "half_up"
    tolerance: float = routing.TOLERANCE
    as_is_octaves: float
    """0 for a model that has seen only its grids."""
    as_is_anisotropy_octaves: float = routing.AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = routing.ROUNDING


class ResamplingRule(Frozen):
    """How an axis goes to the routed grid, and how labels come back. step = grid spacing / spacing; centres as voxel indices.

    A new voxel is the mean of the old ones over a box of max(min_box_voxels, step) old voxels around its centre, the old taken as
    constant within each voxel. Labels come back axis by axis. Along one that was resampled with step < 1, probabilities (softmax of the
    logits) are averaged over a box of 1 / step new voxels around the old one's centre, before the best class is taken; along the others
    that of the nearest new voxel is.
    """

    kernel: Literal["box"] = "box"
    min_box_voxels: float = resampling.MIN_BOX_VOXELS
    size: Literal["old size / step, rounded half up, at least 1"] = "old size / step, rounded half up, at least 1"
    origin: Literal["the middles of both grids coincide"] = "the middles of both grids coincide"
    border: Literal["repeat the last voxel"] = "repeat the last voxel"
    labels_back: Literal["step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"] = (
        "step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"
    )


class WindowRule(Frozen):
    """Padding and sliding windows, per axis, after normalisation.

    size <= patch: padded behind with 0 to the next multiple of the divisor, at least min_shape and at most the patch; one window.
    size > patch: num = ceil((size - patch) / (patch * (1 - overlap))) + 1 windows of the patch's size; window i starts at
    i * (size - patch) / (num - 1), rounded half up. Logits are averaged with weights exp(-0.5 * ((i - (n - 1) / 2) / (sigma * n))^2)
    along each axis of n voxels, multiplied over the axes, at least min_weight.
    """

    overlap: float = sliding_window.OVERLAP
    weights: Literal["gaussian"] = "gaussian"
    sigma: float = sliding_window.SIGMA
    min_weight: float = sliding_window.MIN_WEIGHT
    padding_value: float = 0.0
    padding_side: Literal["behind"] = "behind"


class Manifest(Frozen):
    """The content of manifest.json."""

    schema_version: Literal[3] = 3
    spec: ModelSpec
    precision: Precision
    opset: int
    routing: RoutingRule
    resampling: ResamplingRule = ResamplingRule()
    window: WindowRule = WindowRule()
    weights: HashedFile | None
    """Where the graphs keep their weights; null if each holds its own."""
    engines: tuple[Engine, ...]
    conformance: tuple[ConformanceVector, ...]
    versions: dict[str, str]

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
