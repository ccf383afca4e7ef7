"""The router on the server: the steps of `rare predict`, with several windows of a scan sent at the same time.

It does not depend on Triton: `infer` runs one window in an entry's model, wherever that model is.
Decision: docs/decisions/0010-one-implementation-on-the-server.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rarecli.core.data.fingerprint import differences
from rarecli.core.engines.bundle import Bundle, load_manifest
from rarecli.core.engines.manifest import Manifest
from rarecli.core.engines.runner import require_sound
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.imaging import routing
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.resampling import resampled_shape
from rarecli.core.imaging.restore import classes_of_slabs, label_values, softmax
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.sliding_window import Run, logits_in_slabs
from rarecli.core.imaging.volume import Volume, require_finite
from rarecli.core.serving import contract
from rarecli.core.types import AnyArray, Entry, FloatArray, Triple

WINDOWS_IN_FLIGHT = 16
"""Windows of one scan that are sent at the same time. Dynamic batching can merge this many, and memory must hold this many."""
MAX_GROWTH = 16
"""Most voxels on the padded routed grid for each voxel sent, so that a small request cannot take all memory. `rare predict` allows more."""
ALWAYS_ALLOWED_VOXELS = 2**22
"""On the padded routed grid; a small scan may grow to these without regard to MAX_GROWTH."""


class Router:
    """Routes and prepares scans for one bundle, splits them into windows, and stitches the logits. Thread-safe.

    infer: windows (B, C, X, Y, Z) and an entry -> logits.
    """

    def __init__(self, manifest: Manifest, infer: Run[FloatArray]) -> None:
        self._manifest, self._rules, self._infer = manifest, manifest.rules, infer
        self._pool = ThreadPoolExecutor(WINDOWS_IN_FLIGHT)

    def answer(self, image: FloatArray, spacing_mm: Triple, entry: Entry | None, wanted: Set[str]) -> dict[str, AnyArray]:
        """Return the output tensors of `contract` for one scan (C, X, Y, Z) in RAS axes; probabilities and warnings only if `wanted`.

        Raises the errors of `Predictor.predict`: DataError for broken voxels or spacings, ModelError for a wrong number of channels,
        UsageError for an entry that the bundle does not have. And DataError for a scan that would grow beyond MAX_GROWTH.
        """
        routing.require_spacing(spacing_mm)
        volume = Volume(image, np.diag([*spacing_mm, 1.0]))
        require_finite(volume)
        spec, rules = self._manifest.spec, self._rules
        if contract.PROBABILITIES in wanted and spec.plan.crop != "none":
            # they lie on the grid of the box, and the answer does not tell where it is
            raise UsageError("a model that crops scans serves no probabilities", field=contract.PROBABILITIES, remedy="use rare predict")
        self._require_growth(volume, entry)
        routed = prepare_scan(volume, rules, RouteChoice(entry))
        route = routed.route
        slabs = logits_in_slabs(routed.image, rules, route.entry, self._checked, axis=route.slab_axis, through=self._in_flight)
        maps = {}
        if contract.PROBABILITIES in wanted:
            logits = np.concatenate(list(slabs), axis=1 + route.slab_axis)
            maps, slabs = {contract.PROBABILITIES: softmax(logits)}, iter([logits])
        outputs = {
            contract.LABELS: label_values(classes_of_slabs(slabs, routed), spec),
            contract.ENTRY: np.array(route.entry, dtype=np.int32),
            contract.REASON: np.array([route.reason.encode()], dtype=object),
            contract.GRID_SPACING: np.array(route.grid_spacing_mm),
            contract.ZOOM: np.array(route.zoom),
            **maps,
        }
        if contract.WARNINGS in wanted:
            outputs[contract.WARNINGS] = np.array([found.text.encode() for found in differences(routed, spec.plan)], dtype=object)
        return outputs

    def _require_growth(self, volume: Volume, entry: Entry | None) -> None:
        """Raise DataError, before anything is allocated, if the scan would take far more memory than it was sent with."""
        way = self._rules.route(volume.spacing_mm, RouteChoice(entry))
        grid = resampled_shape(volume.shape, way.zoom, self._rules.resampling)
        whole = self._rules.entry(way.entry).padded(grid)
        if math.prod(whole) > max(ALWAYS_ALLOWED_VOXELS, MAX_GROWTH * math.prod(volume.shape)):
            sent, grown = (" x ".join(map(str, shape)) for shape in (volume.shape, whole))
            raise DataError(
                "the scan would become too large for a server",
                field="spacing",
                found=f"{sent} voxels would become {grown}",
                expected=f"at most {MAX_GROWTH} times as many, or {ALWAYS_ALLOWED_VOXELS} voxels",
                remedy="check the spacing and its unit, or use rare predict",
            )

    def _checked(self, window: FloatArray, entry: Entry) -> FloatArray:
        logits = self._infer(window, entry)
        return require_sound(logits, window, self._manifest.spec.plan.num_classes, self._manifest.engine(entry).file)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _in_flight(self, run: Callable[[FloatArray], FloatArray], windows: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """Like `map`, with at most WINDOWS_IN_FLIGHT windows under way; results are in the order of the windows."""
        under_way: deque[Future[FloatArray]] = deque()
        for window in windows:
            if len(under_way) == WINDOWS_IN_FLIGHT:
                yield under_way.popleft().result()
            under_way.append(self._pool.submit(run, window))
        while under_way:
            yield under_way.popleft().result()


def open_repository(repository: Path, name: str, version: str, backend: str) -> Manifest:
    """Compare the files of every entry with the manifest that the router `name` serves; return the manifest.

    Raises ModelError for a manifest with another schema, for missing or changed files, and for models of different bundles.
    """
    manifest = load_manifest(repository / name / version)
    for engine in manifest.engines:
        bundle = Bundle(repository / contract.entry_model(name, engine.entry) / version)
        if bundle.manifest != manifest:
            raise ModelError("the models were rendered from different bundles", path=bundle.path, remedy="render the repository again")
        if backend == "tensorrt" and engine.plan:
            bundle.file(engine.plan)
        else:
            bundle.engine_file(engine.entry)
    return manifest
