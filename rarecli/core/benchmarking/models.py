"""The models that a benchmark measures: the user's model, or a suite's network with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rarecli.core.benchmarking.options import BenchmarkOptions
from rarecli.core.benchmarking.rows import Row, entries_of
from rarecli.core.benchmarking.stages import IN_TORCH
from rarecli.core.benchmarking.suites import Suite, random_spec, write_random_run
from rarecli.core.config.geometry import entry_name
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import RareError, missing_extra
from rarecli.core.jobs.progress import Reporter
from rarecli.core.types import Entry


class Models:
    """The model files for each backend: a run for PyTorch and a bundle for engines. Both are the user's model if there is one."""

    def __init__(self, run: Path, bundle: Path) -> None:
        self.run, self.bundle = run, bundle

    def path(self, backend: str) -> Path:
        """Returns the run for PyTorch and the bundle for engines."""
        return self.run if backend in IN_TORCH else self.bundle


def find_models(
    model: Path | None,
    suite: Suite | None,
    options: BenchmarkOptions,
    folder: Path,
    reporter: Reporter,
) -> tuple[Models, ModelSpec]:
    """Returns the user's model, or the suite's network with random weights, which is written into `folder`.

    The network is written as a run and, if a backend needs engines and the export succeeds, as a bundle.
    """
    if model is not None:
        return Models(model, model), find_model(model).spec
    assert suite is not None
    spec = random_spec(suite)
    run, bundle = folder / "run", folder / "bundle"
    write_random_run(spec, run)
    wanted = [entry for entry in entries_of(spec, options.entries) if entry in spec.entries]
    backends = options.backends or [backend for rows in suite.rows for backend in rows.backends]
    if not set(backends) <= set(IN_TORCH):
        reporter.say("exporting the engines of a network with random weights")
        try:
            _export_unchecked(run, bundle, [(0, 0, 0), *wanted])
        except RareError as error:
            reporter.warn(f"no engines: {error.problem}")
            bundle = run
    return Models(run, bundle), spec


def _export_unchecked(run: Path, bundle: Path, entries: Sequence[Entry]) -> None:
    try:
        from rarecli.core.engines.export import ExportOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    export(run, bundle, ExportOptions(entries=entries, check=False))


def artefact_bytes(model: Path, row: Row) -> int:
    """Returns the size of the files that a row needs: a graph and its weights, a TensorRT plan, or only the weights."""
    folder = find_model(model).folder
    if model.is_file():
        return model.stat().st_size
    in_torch = row.key.backend in IN_TORCH
    names = [f"{entry_name(row.entry)}.plan"] if row.key.backend == "tensorrt" else ["weights.safetensors"]
    names += [] if in_torch or row.key.backend == "tensorrt" else [f"{entry_name(row.entry)}.onnx"]
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
