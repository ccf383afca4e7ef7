"""Runs a bundle's TensorRT plans without PyTorch: NVIDIA's Polygraphy manages the GPU's memory and streams."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import PlanFacts
from rarecli.core.engines.runner import engine_errors
from rarecli.core.engines.tensorrt_build import find_gpu, load_tensorrt, require_same_machine
from rarecli.core.errors import EnvironmentFault, ModelError, UsageError, missing_extra
from rarecli.core.types import Entry, FloatArray


class TensorRtRunner:
    """One execution context per entry, created at its first use. See `runner.Runner`.

    A plan accepts the shapes of its profile, by default only the patch. The first GPU is used.
    """

    backend = "tensorrt"

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        if device not in ("auto", "cuda", "cuda:0"):
            expected = "auto, cuda or cuda:0"
            raise UsageError("TensorRT runs on the first GPU here", field="device", found=device, expected=expected)
        self._bundle = bundle
        self.entries = tuple(engine.entry for engine in bundle.manifest.engines if engine.plan)
        if not self.entries:
            raise UsageError(
                "the bundle has no TensorRT plans",
                path=bundle.path,
                field="backend",
                found="tensorrt",
                remedy="rare export --format onnx,tensorrt, on this machine",
            )
        if find_spec("polygraphy") is None:
            raise missing_extra("polygraphy", "gpu")
        self._library, self._gpu = load_tensorrt(), find_gpu()
        self._contexts: dict[Entry, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TensorRtRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._contexts.clear()
        self._stack.close()

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32.

        Raises ModelError for a shape outside the plan's profile, UsageError for an entry without a plan.
        """
        engine = self._bundle.manifest.engine(entry)
        plan = engine.plan
        if plan is None:
            raise UsageError("the bundle has no TensorRT plan for this entry", field="entry", found=entry, expected=str(self.entries))
        if not all(low <= size <= high for low, size, high in zip(plan.shape_min, image.shape, plan.shape_max, strict=True)):
            raise ModelError(
                "the plan does not accept this shape",
                path=plan.file,
                field="shape",
                found=image.shape,
                expected=f"{plan.shape_min} to {plan.shape_max}",
                remedy="export again with --shape-min and --shape-max, or use --backend onnx",
            )
        with engine_errors(self._bundle.path / plan.file):
            context = self._contexts.get(entry) or self._open(entry, plan)
            # a copy, because the context reuses the memory of its output
            return np.array(context.infer({engine.input.name: np.ascontiguousarray(image)})[engine.output.name])

    def _open(self, entry: Entry, plan: PlanFacts) -> Any:
        path = self._bundle.file(plan)
        require_same_machine(plan, path, self._library.__version__, self._gpu)
        from polygraphy.exception import PolygraphyException

        try:
            self._contexts[entry] = self._stack.enter_context(open_plan(path))
        except (PolygraphyException, OSError) as error:
            raise EnvironmentFault("TensorRT cannot open the plan", path=path, found=error, remedy="build it again here") from error
        return self._contexts[entry]


def open_plan(path: Path) -> Any:
    """Return a Polygraphy runner for a plan: a context manager with `infer`."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    return TrtRunner(EngineFromBytes(path.read_bytes()))
