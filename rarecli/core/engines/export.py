"""`rare export`: write a bundle, the engines of a model and everything that a consumer must know.

BUNDLE/
  manifest.json                    the contract
  entry_0_0_0.onnx, ...            one graph per entry
  weights.safetensors              their weights (absent with --self-contained)
  entry_0_0_0.plan, .plan.json, ...   TensorRT plans for this machine, with --format tensorrt
  conformance/                     vectors to test a consumer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rarecli.core.config.calibration import save_calibration
from rarecli.core.config.geometry import EntrySet, entry_name, entry_set, entry_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines import onnx_export
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.conformance import write_vectors
from rarecli.core.engines.manifest import MANIFEST, Engine, Gpu, HashedFile, Manifest, Parity, PlanFacts, Precision, TensorInfo
from rarecli.core.engines.model_files import OTHER_CALIBRATION, RECALIBRATE, find_model
from rarecli.core.engines.onnx_export import INPUT, OPSET, OUTPUT, GraphOptions
from rarecli.core.engines.onnx_runner import OnnxRunner
from rarecli.core.engines.openvino_runner import OpenVinoRunner
from rarecli.core.engines.parity import check_parity, expected_seconds
from rarecli.core.engines.runner import Runner
from rarecli.core.engines.tensorrt_build import build_plan, find_gpu, load_tensorrt, profile_for
from rarecli.core.engines.tensorrt_runner import open_plan
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.engines.tracing import load_network, trace_all
from rarecli.core.errors import UsageError
from rarecli.core.imaging.scan_rules import ScanRules, rules_of
from rarecli.core.jobs.files import sha256
from rarecli.core.jobs.folders import atomic_folder
from rarecli.core.jobs.outputs import require_new_folder
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.words import counted, duration
from rarecli.core.types import Entry, Shape
from rarecli.core.versions import installed_versions

WEIGHTS = "weights.safetensors"
FORMATS = ("onnx", "tensorrt")
_LONG_S = 60
"""An export that is expected to take longer names the entries that would be enough for most scans."""


@dataclass(frozen=True)
class TensorRtOptions:
    """Shapes at depth 0 that plans accept, by default only the patch, and a file that caches the timings of tuning."""

    shape_min: Shape | None = None
    shape_opt: Shape | None = None
    shape_max: Shape | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class ExportOptions:
    """What to write. onnx is always written; tensorrt plans are built from it on this machine's GPU.

    entries: a set of entries or chosen ones; by default thick for a model that was trained for thick slices, else isotropic.
    precision, conv_transpose: as in `GraphOptions`. self_contained: keep the weights inside each graph. check: False skips the comparison
    with PyTorch and the conformance vectors; only for timing, where they would take longer than the measurement. num_jobs: processes that
    trace entries; a script that asks for several needs a main guard.
    """

    entries: EntrySet | Sequence[Entry] | None = None
    formats: Sequence[str] = ("onnx",)
    precision: Precision = "fp32"
    self_contained: bool = False
    conv_transpose: bool = True
    tensorrt: TensorRtOptions = TensorRtOptions()
    check: bool = True
    overwrite: bool = False
    num_jobs: int = 1


def export(model: Path, bundle: Path, options: ExportOptions = ExportOptions(), reporter: Reporter = Silent()) -> Manifest:
    """Write the bundle of a model, whole or not at all, and only if every engine agrees with PyTorch. Return its manifest.

    Raises ModelError if an engine fails its parity gate, UsageError for an entry that the model does not have, an unknown format, or a
    self-contained bundle as the model, EnvironmentFault if TensorRT or a GPU is missing.
    """
    if stray := sorted(set(options.formats) - set(FORMATS)):
        raise UsageError("no such format", field="format", found=", ".join(stray), expected=", ".join(FORMATS))
    library, gpu = (load_tensorrt(), find_gpu()) if "tensorrt" in options.formats else (None, None)
    source = find_model(model)
    require_new_folder(bundle, MANIFEST, "a bundle", again=options.overwrite, resumable=False)
    spec, precision = source.spec, options.precision
    entries = choose_entries(spec, options.entries)
    rules = rules_of(spec, entries)
    network = load_network(spec, source.weights)
    with atomic_folder(bundle) as folder, TorchRunner(network, torch.device("cpu"), entries) as reference:
        graph_options = GraphOptions(precision, options.conv_transpose)
        seconds = forecast(spec, entries, reference, reporter) if options.check else {}
        reporter.say(f"tracing {counted(len(entries), 'entry', 'entries')} of {spec.name}")
        graphs = trace_all(spec, source.weights, entries, graph_options, options.num_jobs, reporter)
        shared = None
        if not options.self_contained:
            onnx_export.save_shared_weights(onnx_export.weights_of(graphs.values(), network), folder / WEIGHTS)
            shared = HashedFile(file=WEIGHTS, sha256=sha256(folder / WEIGHTS))
        engines = []
        for entry, graph in graphs.items():
            file = folder / f"{entry_name(entry)}.onnx"
            if shared:
                onnx_export.share_weights(graph, folder / WEIGHTS)
            onnx_export.save_graph(graph, file)
            engines.append(_describe(rules, entry, file))
        manifest = Manifest(
            spec=spec,
            precision=precision,
            opset=OPSET,
            conv_transpose=options.conv_transpose,
            routing=rules.routing,
            weights=shared,
            engines=tuple(engines),
            conformance=(),
            versions=installed_versions(("rare-unet", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy")),
        )
        if options.check:
            engines = _check_engines(_write(manifest, folder), reference, seconds, reporter)
        if library is not None:
            engines = [
                engine.model_copy(update={"plan": _build_plan(library, engine, folder, spec, precision, reference, gpu, options.tensorrt)})
                for engine in engines
            ]
        if options.check:
            reporter.say("writing conformance vectors")
        vectors = write_vectors(folder, rules, reference) if options.check else ()
        manifest = manifest.model_copy(update={"engines": tuple(engines), "conformance": vectors})
        _write(manifest, folder)
        if source.has_other_calibration:
            reporter.warn(f"{OTHER_CALIBRATION}, so the bundle has none; run {RECALIBRATE}, then export again")
        elif known := source.calibration:
            save_calibration(folder, known.model_copy(update={"weights_sha256": None}))
    return manifest


def _write(manifest: Manifest, folder: Path) -> Bundle:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return Bundle(folder)


def forecast(spec: ModelSpec, entries: Sequence[Entry], reference: TorchRunner, reporter: Reporter) -> dict[Entry, float]:
    """Say about how long the comparison with PyTorch takes, most of an export, before it starts. Return the seconds of every entry."""
    seconds = expected_seconds(spec, entries, reference, len(_checked_runners()))
    total, isotropic = sum(seconds.values()), entry_set("isotropic", spec.network.num_depths)
    fewer = ""
    if total > _LONG_S and set(isotropic) < set(entries):
        their_time = duration(sum(seconds[entry] for entry in isotropic))
        fewer = f"; --entries isotropic writes {len(isotropic)} of the {len(entries)} engines, compared in {their_time}"
    reporter.say(f"the comparison with PyTorch will take about {duration(total)}, longer on a busy machine{fewer}")
    return seconds


def _checked_runners() -> list[Callable[[Bundle, str], Runner]]:
    return [OnnxRunner, *([OpenVinoRunner] if find_spec("openvino") else [])]


def _check_engines(bundle: Bundle, reference: TorchRunner, seconds: Mapping[Entry, float], reporter: Reporter) -> list[Engine]:
    """Return the engines with their parity, in every CPU runner that `--backend auto` may choose. Raises ModelError if one disagrees.

    seconds: expected for the entries, in any unit.
    """
    runners = [opened(bundle, "cpu") for opened in _checked_runners()]
    manifest, checked = bundle.manifest, []
    names = " and ".join(runner.backend for runner in runners)
    reporter.say(f"comparing {counted(len(manifest.engines), 'engine')} with PyTorch in {names}")
    costs = [seconds[engine.entry] for engine in manifest.engines]
    for engine in reporter.track(manifest.engines, "check", len(manifest.engines), costs):
        with ExitStack() as stack:
            runs = {runner.backend: partial(stack.enter_context(runner).run, entry=engine.entry) for runner in runners}
            parity = check_parity(engine.file, runs, manifest.spec, engine.entry, manifest.precision, reference)
        checked.append(engine.model_copy(update={"parity": parity}))
        off, changes = max(parity.max_abs, parity.large_max_abs or 0), counted(parity.label_changes, "label")
        reporter.say(f"{entry_text(engine.entry)}: logits within {off:.1e} of PyTorch in {names}, {changes} changed")
    return checked


def choose_entries(spec: ModelSpec, asked: EntrySet | Sequence[Entry] | None) -> tuple[Entry, ...]:
    """Return the entries to export, by total depth. Raises UsageError for one that the model does not have."""
    if asked is None:
        asked = "thick" if spec.per_axis else "isotropic"
    chosen = entry_set(asked, spec.network.num_depths) if isinstance(asked, str) else tuple(asked)
    there = spec.entries
    if stray := [entry for entry in chosen if entry not in there]:
        found, expected = ("; ".join(map(entry_text, entries)) for entries in (stray, there))
        raise UsageError("the model has no such entry", field="entries", found=found, expected=expected)
    return tuple(sorted(set(chosen), key=lambda entry: (sum(entry), entry)))


def _build_plan(
    library: Any,
    engine: Engine,
    folder: Path,
    spec: ModelSpec,
    precision: Precision,
    reference: TorchRunner,
    gpu: Gpu | None,
    options: TensorRtOptions,
) -> PlanFacts:
    """Build an entry's plan, and compare it with PyTorch if there is a GPU to run it."""
    profile = profile_for(engine, options.shape_min, options.shape_opt, options.shape_max)

    def check(plan: Path) -> Parity:
        shapes = list(dict.fromkeys((x, y, z) for _, _, x, y, z in (profile.least, profile.usual, profile.most)))
        with open_plan(plan) as context:
            return check_parity(
                plan.name,
                {"tensorrt": lambda image: context.infer({INPUT: image})[OUTPUT]},
                spec,
                engine.entry,
                precision,
                reference,
                shapes=shapes,
                max_batch=profile.most[0],
            )

    return build_plan(library, engine, folder, profile, gpu, options.timing_cache, check if gpu else None)


def _describe(rules: ScanRules, entry: Entry, file: Path) -> Engine:
    network = rules.spec.network
    return Engine(
        **rules.entry(entry).model_dump(),
        file=file.name,
        sha256=sha256(file),
        input=TensorInfo(name=INPUT, shape=(-1, network.in_channels, -1, -1, -1)),
        output=TensorInfo(name=OUTPUT, shape=(-1, network.num_classes, -1, -1, -1)),
        parity=None,
    )
