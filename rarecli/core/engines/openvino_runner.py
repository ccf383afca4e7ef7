"""Runs the ONNX engines of a bundle in OpenVINO, the fastest backend on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import Engine
from rarecli.core.engines.model_cache import ModelCache, cpu_features
from rarecli.core.engines.probes import phantom_image
from rarecli.core.engines.runner import engine_errors, require_tensors
from rarecli.core.errors import EnvironmentFault, UsageError, missing_extra
from rarecli.core.jobs.journal import key_of
from rarecli.core.types import Entry, FloatArray, Shape
from rarecli.core.versions import installed_versions

_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}
_NUM_CALIBRATION_IMAGES = 10
_MOST_COMPILED = 24
"""Compiled models that are kept, of the engines used last. Each takes tens of megabytes."""


class OpenVinoRunner:
    """Two compiled models per entry: one for its patch, the size of every window of a large scan, one for all other sizes.

    See `runner.Runner`. A fixed size runs 10 to 14 % faster, but compiling takes as long as predicting six scans of 35x50x35. So the size
    alone decides, and the logits of a scan do not depend on what was predicted before. The models used last are kept.

    precision: fp32; bf16 or int8 on a CPU that supports it. For int8 an engine is quantised when it is opened. The ranges of activations
    come from phantoms of the patch size, so they do not depend on the predicted scans; int8 costs some accuracy.
    """

    backend = "openvino"

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        num_threads: int | None = None,
        precision: str = "fp32",
        cache: ModelCache | None = None,
    ) -> None:
        # openvino_telemetry sends a message over the network at import; OpenVINO works without the package
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError:
            raise missing_extra("openvino", "cpu") from None
        if device not in ("auto", "cpu"):
            raise UsageError("openvino runs on the CPU here", field="device", found=device, expected="auto or cpu", remedy="--backend onnx")
        self._core = openvino.Core()
        if _CAPABILITIES[precision] not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EnvironmentFault("this CPU does not support the precision", field="precision", found=precision, remedy="--precision fp32")
        if precision == "int8" and find_spec("nncf") is None:
            raise missing_extra("nncf", "int8")
        self._precision, self._cache = precision, cache
        self._bundle, self.entries = bundle, bundle.manifest.entries
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        if num_threads:
            self._options["INFERENCE_NUM_THREADS"] = num_threads
        self._requests: dict[tuple[Entry, Shape | None], Any] = {}

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._requests.clear()

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32."""
        engine = self._bundle.manifest.engine(entry)
        with engine_errors(self._bundle.path / engine.file):
            place = entry, _fixed_shape(engine, image)
            request = self._requests.pop(place, None) or self._open(engine, place[1])
            self._requests[place] = request  # the latest last
            while len(self._requests) > _MOST_COMPILED:
                self._requests.pop(next(iter(self._requests)))
            # a copy, because the request reuses the memory of its output
            return np.array(request.infer({engine.input.name: np.ascontiguousarray(image)})[engine.output.name])

    def _open(self, engine: Engine, shape: Shape | None) -> Any:
        """Compile an engine for one scan of `shape`, or for any number of scans of any size; or import what was compiled before."""
        file = self._bundle.engine_file(engine.entry)
        if self._cache is None:
            return self._compile(file, engine, shape, self._options).create_infer_request()
        options = self._options
        if weights := self._bundle.manifest.weights:  # the compiled model refers to them, and takes .3 MB in place of 24
            options = options | {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(self._bundle.file(weights))}
        key = self._key(engine, shape)
        compiled = None
        if exported := self._cache.load(key):
            with suppress(RuntimeError):  # the library refuses it: it is compiled again
                compiled = self._core.import_model(exported, "CPU", options)
        if compiled is None:
            compiled = self._compile(file, engine, shape, options)
            self._cache.save(key, compiled.export_model().getvalue())
        return compiled.create_infer_request()

    def _key(self, engine: Engine, shape: Shape | None) -> str:
        """A hash of everything that a compiled model depends on."""
        manifest, names = self._bundle.manifest, (engine.input.name, engine.output.name)
        facts = [engine.sha256, manifest.weights and manifest.weights.sha256, names, shape, self._options, self._machine]
        if self._precision == "int8":  # the ranges of activations come from our phantoms
            facts += [engine.patch_shape, manifest.spec.model_dump(mode="json"), installed_versions(("rare-unet", "nncf"))]
        return key_of([], self._precision, *facts)

    @cached_property
    def _machine(self) -> list[str]:
        import openvino

        known = [self._core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        return [openvino.get_version(), *map(str, known), cpu_features()]

    def _compile(self, file: Path, engine: Engine, shape: Shape | None, options: dict[str, Any]) -> Any:
        model = self._core.read_model(str(file))
        require_tensors(engine, _names_of(model.inputs), _names_of(model.outputs))
        if self._precision == "int8":
            model = self._quantise(model, engine.patch_shape)
        num_channels = self._bundle.manifest.spec.network.in_channels
        model.reshape([1, num_channels, *shape] if shape else [-1, num_channels, -1, -1, -1])
        return self._core.compile_model(model, "CPU", options)

    def _quantise(self, model: Any, shape: Shape) -> Any:
        import nncf

        nncf.set_log_level("ERROR")
        images = [phantom_image(self._bundle.manifest.spec, shape, seed) for seed in range(_NUM_CALIBRATION_IMAGES)]
        with redirect_stdout(sys.stderr):  # it draws progress bars
            return nncf.quantize(model, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED)


def _fixed_shape(engine: Engine, image: FloatArray) -> Shape | None:
    """Return the size (X, Y, Z) that an engine is compiled for to run an image (B, C, X, Y, Z); None is any size."""
    return engine.patch_shape if image.shape[0] == 1 and image.shape[2:] == engine.patch_shape else None


def _names_of(ports: Sequence[Any]) -> list[str]:
    """The names of a graph's tensors; one tensor may have several."""
    return [name for port in ports for name in port.names]
