"""The bundle's manifest: the contract between `rare export` and whoever runs the engines.

A consumer looks up; it never re-derives. `export/manifest.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from rarecli.core import patches, routing
from rarecli.core.config import Frozen, ModelSpec, validate
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.files import read_json, sha256

MANIFEST = "manifest.json"


Precision = Literal["fp32", "fp16"]
"""Of the weights and convolutions; input, output and instance norms are float32 in either."""


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: str
    dtype: Literal["float32"] = "float32"
    axes: Literal["B,C,X,Y,Z"] = "B,C,X,Y,Z"
    shape: tuple[int, int, int, int, int]


class HashedFile(Frozen):
    """A file of the bundle: its path inside, with forward slashes, and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


class Parity(Frozen):
    """How an engine compared with PyTorch when it was exported, on phantoms and random images."""

    shapes: tuple[tuple[int, int, int], ...]
    max_abs: float
    """Largest difference of a logit."""
    max_rel: float
    """The same as a share of the image's largest logit."""
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
    has_run: bool = False
    """Building proves that the engine compiles, not that it runs."""


class Engine(HashedFile):
    """One entry into the network, as an ONNX graph; if asked for, as a TensorRT plan, too."""

    depth: int
    grid_spacing_mm: tuple[float, float, float]
    input: TensorInfo
    output: TensorInfo
    divisor: int
    min_axis: int
    patch_shape: tuple[int, int, int]
    parity: Parity
    plan: PlanFacts | None = None


class RoutingRule(Frozen):
    """How a consumer routes a scan.

    depth = clamp(floor(min over axes of log2(spacing / trained spacing) + 0.5), 0, deepest). An axis whose spacing is within
    the tolerance of the routed grid's is not resampled.
    """

    tolerance: float = routing.TOLERANCE
    orientation: Literal["RAS"] = "RAS"
    resampling: Literal["box"] = "box"
    """Mean over a box of max(1, step) voxels around each centre; size * zoom rounded half up; centres aligned; border repeated."""


class WindowRule(Frozen):
    """Sliding windows: `rarecli/core/patches.py` in words."""

    overlap: float = patches.OVERLAP
    weights: Literal["gaussian"] = "gaussian"
    sigma: float = patches.SIGMA


class Manifest(Frozen):
    """The content of manifest.json."""

    schema_version: Literal[1] = 1
    spec: ModelSpec
    precision: Precision
    opset: int
    routing: RoutingRule = RoutingRule()
    window: WindowRule = WindowRule()
    weights: HashedFile | None
    """Where the graphs keep their weights; null if each holds its own."""
    engines: tuple[Engine, ...]
    conformance: tuple[ConformanceVector, ...]
    versions: dict[str, str]

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


def load_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest. Raises ModelError if it is broken or of another schema version."""
    path = bundle / MANIFEST
    remedy = "export the bundle again with this version"
    return validate(Manifest, read_json(path), "the bundle's manifest", ModelError, path=path, remedy=remedy)


def verify_engine(bundle: Path, manifest: Manifest, depth: int) -> Path:
    """Path of a depth's engine, after comparing it and the weights with the manifest. Raises ModelError."""
    if manifest.weights:
        verify_file(bundle, manifest.weights)
    return verify_file(bundle, manifest.engine(depth))


def verify_file(bundle: Path, entry: HashedFile) -> Path:
    """Path of a file of the bundle, after comparing it with the manifest. Raises ModelError if it is missing or was changed."""
    path = bundle / entry.file
    if Path(entry.file).is_absolute() or not path.resolve().is_relative_to(bundle.resolve()):
        raise ModelError("a path leaves the bundle", path=bundle / MANIFEST, found=entry.file)
    if not path.is_file():
        raise ModelError("a file of the bundle is missing", path=path, remedy="copy the bundle as a whole")
    if (found := sha256(path)) != entry.sha256:
        raise ModelError(
            "a file of the bundle was changed", path=path, field="sha256", found=found, expected=entry.sha256, remedy="export again"
        )
    return path


if __name__ == "__main__":  # python -m rarecli.core.engines.manifest > export/manifest.schema.json
    sys.stdout.write(json.dumps(Manifest.model_json_schema(), indent=2) + "\n")
