"""Predicts labels from a scan in memory, stage by stage, as `rare predict` does.

preprocess   routing, resampling, normalisation, padding
copy_in      host to device (GPU, PyTorch)
compute      the network; engines with host arrays as input and output copy inside this stage
argmax       the best class of every voxel, on the device that holds the logits
copy_out     device to host (GPU, PyTorch)
postprocess  labels restored to the scan's grid

The paper timed compute + argmax + copy_out. Labels of upsampled scans are restored by the nearest voxel, which needs only the classes.
`rare predict` uses mean probabilities there, which takes a little longer at twice the spacing and a little less time beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any, Protocol

import numpy as np

from rarecli.core.benchmarking.browser_runner import BrowserRunner
from rarecli.core.benchmarking.timing import Mark
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.open_model import BACKENDS, open_model
from rarecli.core.engines.runner import Runner
from rarecli.core.errors import EnvironmentFault, UsageError
from rarecli.core.imaging.padding import pad_to
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import best_classes, label_values
from rarecli.core.imaging.scan_rules import RouteChoice, ScanRules
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import Entry, FloatArray, IntArray, Shape

PAPER_STAGES = ("compute", "argmax", "copy_out")
COMPILED, CUDA_GRAPH = "torch-compile", "torch-cuda-graph"
IN_TORCH = ("torch", COMPILED, CUDA_GRAPH)
TIMED_BACKENDS = (*BACKENDS, COMPILED, CUDA_GRAPH, BrowserRunner.backend)
"""The backends of `predict`; two ways of running PyTorch, and a page in a browser, which only a benchmark offers."""


class Steps(Protocol):
    """The stages between preprocessing and postprocessing. Each returns when its work is done."""

    copies: bool
    """Whether host and device have separate memory."""

    def put(self, image: FloatArray) -> Any:
        """Image (B, C, X, Y, Z) float32 on the host -> image on the device."""

    def forward(self, image: Any, entry: Entry) -> Any:
        """Image on the device -> logits (B, K, X, Y, Z)."""

    def best(self, logits: Any) -> Any:
        """Logits -> classes (B, X, Y, Z)."""

    def fetch(self, classes: Any) -> IntArray:
        """Classes on the device -> classes on the host."""

    def to_host(self, logits: Any) -> FloatArray:
        """Logits on the device -> logits (B, K, X, Y, Z) float32 on the host. Not a stage of a pass."""


class HostSteps:
    """The steps of any runner, whose input and output are arrays on the host."""

    copies = False

    def __init__(self, runner: Runner) -> None:
        self._run = runner.run

    def put(self, image: FloatArray) -> FloatArray:
        """Return the image unchanged."""
        return image

    def forward(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Run the network."""
        return self._run(image, entry)

    def best(self, logits: FloatArray) -> IntArray:
        """Argmax in numpy, as in `predict`."""
        return np.stack([best_classes(item) for item in logits])

    def fetch(self, classes: IntArray) -> IntArray:
        """Return the classes unchanged."""
        return classes

    def to_host(self, logits: FloatArray) -> FloatArray:
        """Return the logits unchanged."""
        return logits


class CudaSteps:
    """The steps of PyTorch on a GPU.

    as_graph: record the kernels once per entry and shape, then replay them as one CUDA graph. amp: bfloat16 autocast.
    """

    copies = True

    def __init__(self, network: Any, device: Any, as_graph: bool = False, amp: bool = False) -> None:
        import torch

        self._torch, self._network, self._device, self._as_graph, self._amp = torch, network, device, as_graph, amp
        self._graphs: dict[tuple[Entry, tuple[int, ...]], tuple[Any, Any, Any]] = {}

    def put(self, image: FloatArray) -> Any:
        """Copy to the device."""
        return self._done(self._torch.from_numpy(image).to(self._device))

    def forward(self, image: Any, entry: Entry) -> Any:
        """Run the network, or replay its graph."""
        with self._torch.inference_mode():
            if not self._as_graph:
                return self._done(self._run(image, entry))
            key = (entry, tuple(image.shape))
            if key not in self._graphs:
                self._graphs[key] = self._record(image, entry)
            graph, source, logits = self._graphs[key]
            source.copy_(image)
            graph.replay()
            return self._done(logits)

    def best(self, logits: Any) -> Any:
        """Argmax on the device."""
        return self._done(logits.argmax(dim=1).to(self._torch.uint8))

    def fetch(self, classes: Any) -> IntArray:
        """Copy to the host."""
        result: IntArray = classes.cpu().numpy()
        return result

    def to_host(self, logits: Any) -> FloatArray:
        """Copy to the host, as float32."""
        result: FloatArray = logits.float().cpu().numpy()
        return result

    def _run(self, image: Any, entry: Entry) -> Any:
        # a graph must not use converted weights that are freed after its recording
        with self._torch.autocast(self._device.type, self._torch.bfloat16, enabled=self._amp, cache_enabled=not self._as_graph):
            return self._network(image, entry)

    def _record(self, image: Any, entry: Entry) -> tuple[Any, Any, Any]:
        torch = self._torch
        source = image.clone()
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # warm-up, so that libraries choose their kernels before the recording
            for _ in range(3):
                self._run(source, entry)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._run(source, entry)
        return graph, source, logits

    def _done(self, result: Any) -> Any:
        self._torch.cuda.synchronize(self._device)
        return result


@dataclass(frozen=True)
class Opened:
    """A model opened with one backend. The caller enters `runner` as a context before it uses `steps`."""

    rules: ScanRules
    runner: Runner
    steps: Steps
    on_gpu: bool

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self.rules.spec


def open_steps(model: Path, backend: str, precision: str, num_threads: int | None, device: str) -> Opened:
    """Open a model. precision: as for `open_model`; PyTorch also computes in bf16, as autocast in a training does.

    Raises what `open_model` raises, and EnvironmentFault if a GPU or a C++ compiler is missing.
    """
    if backend not in TIMED_BACKENDS:
        raise UsageError("no such backend", field="backend", found=backend, expected=", ".join(TIMED_BACKENDS))
    if backend == BrowserRunner.backend:
        page = BrowserRunner(model, device, num_threads, precision)
        return Opened(page.rules, page, page, False)
    in_torch = backend in IN_TORCH
    amp = in_torch and precision == "bf16"
    rules, runner = open_model(model, "torch" if in_torch else backend, device, num_threads, "fp32" if amp else precision)
    if not in_torch:
        on_gpu = backend == "tensorrt" or (backend == "onnx" and device != "cpu" and _has_cuda_onnx())
        return Opened(rules, runner, HostSteps(runner), on_gpu)
    runner.amp = amp  # type: ignore[attr-defined]
    network, place = runner.network, runner.device  # type: ignore[attr-defined]
    if backend == CUDA_GRAPH and place.type != "cuda":
        raise EnvironmentFault("CUDA graphs need a GPU", field="backend", found=backend)
    if backend == COMPILED:
        if place.type == "cpu" and not (which("c++") or which("g++") or which("clang++")):
            raise EnvironmentFault("torch-compile needs a C++ compiler, and none was found", field="backend", found=backend)
        network.compile(dynamic=False)
    if place.type == "cuda":
        return Opened(rules, runner, CudaSteps(network, place, as_graph=backend == CUDA_GRAPH, amp=amp), True)
    return Opened(rules, runner, HostSteps(runner), False)


def _has_cuda_onnx() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def random_scan(spec: ModelSpec, entry: Entry, shape: Shape) -> Volume:
    """Returns a scan of `shape` on the grid of an entry. Its intensities are random, since they do not affect the time."""
    data = np.random.default_rng(0).random((spec.network.in_channels, *shape), dtype=np.float32)
    return Volume(data, np.diag([*spec.grid_spacing_mm(entry), 1.0]))


def segment(scans: Sequence[Volume], rules: ScanRules, entry: Entry, steps: Steps, mark: Mark) -> list[IntArray]:
    """Returns the labels of scans of one shape, processed as one batch at one entry. Calls `mark` after every stage."""
    routed = [prepare_scan(scan, rules, RouteChoice(entry)) for scan in scans]
    x, y, z = routed[0].image.shape[1:]
    whole = rules.entry(entry).enlarged((x, y, z))
    image = np.ascontiguousarray(np.stack([pad_to(item.image, whole, rules.window.padding_value) for item in routed]))
    mark("preprocess")
    held = steps.put(image)
    if steps.copies:
        mark("copy_in")
    logits = steps.forward(held, entry)
    mark("compute")
    best = steps.best(logits)
    mark("argmax")
    classes = steps.fetch(best)
    if steps.copies:
        mark("copy_out")
    labels = [label_values(item.restore_labels(own[:x, :y, :z]), rules.spec) for item, own in zip(routed, classes, strict=True)]
    mark("postprocess")
    return labels
