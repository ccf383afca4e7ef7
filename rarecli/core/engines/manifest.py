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


class TensorInfo(Frozen):
    """A tensor of an engine. -1 is a size that the caller chooses."""

    name: str
    dtype: Literal["float32"] = "float32"
    axes: Literal["B,C,X,Y,Z"] = "B,C,X,Y,Z"
    shape: tuple[int, int, int, int, int]


class Parity(Frozen):
    """How an engine compared with PyTorch when it was exported."""

    shapes: tuple[tuple[int, int, int], ...]
    max_abs: float
    tolerance: float
    label_changes: int


class Engine(Frozen):
    """One entry into the network."""

    depth: int
    grid_spacing_mm: tuple[float, float, float]
    file: str
    sha256: str
    input: TensorInfo
    output: TensorInfo
    divisor: int
    min_axis: int
    patch_shape: tuple[int, int, int]
    parity: Parity


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
    precision: Literal["fp32"] = "fp32"
    opset: int
    routing: RoutingRule = RoutingRule()
    window: WindowRule = WindowRule()
    weights_file: str
    weights_sha256: str
    engines: tuple[Engine, ...]
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
    verify_weights(bundle, manifest)
    engine = manifest.engine(depth)
    return _verify(bundle, engine.file, engine.sha256)


def verify_weights(bundle: Path, manifest: Manifest) -> Path:
    """Path of the weights, after comparing them with the manifest. Raises ModelError."""
    return _verify(bundle, manifest.weights_file, manifest.weights_sha256)


def _verify(bundle: Path, name: str, expected: str) -> Path:
    path = bundle / name
    if Path(name).name != name:
        raise ModelError("a path leaves the bundle", path=bundle / MANIFEST, found=name)
    if not path.is_file():
        raise ModelError("a file of the bundle is missing", path=path, remedy="copy the bundle as a whole")
    if (found := sha256(path)) != expected:
        raise ModelError(
            "a file of the bundle was changed", path=path, field="sha256", found=found, expected=expected, remedy="export again"
        )
    return path


if __name__ == "__main__":  # python -m rarecli.core.engines.manifest > export/manifest.schema.json
    sys.stdout.write(json.dumps(Manifest.model_json_schema(), indent=2) + "\n")
