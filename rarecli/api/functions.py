"""The commands as Python functions. Each takes paths, results of other functions or an open `Predictor`, and returns a typed result.

Keyword options are the fields of the named options class, which documents them. `progress` prints as the command line does; without it
only warnings are given, by the module `warnings`. Errors are those of `rarecli.core.errors`; `SomeCasesFailed` is raised after the other
cases are written, and holds their result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarecli.api.options import PathLike, chosen_model, one_model, options_of, paths, reporter
from rarecli.api.results import CasePrediction, Description, ExportedBundle, Predictions, Prepared, Run, Scores, Timing
from rarecli.core.errors import missing_extra

if TYPE_CHECKING:
    from rarecli.core.engines.manifest import Manifest
    from rarecli.core.info.built_in import BuiltInModel
    from rarecli.core.jobs.progress import Reporter
    from rarecli.core.prediction.predictor import Predictor


def preprocess(dataset: PathLike, output: PathLike, *, progress: bool = False, **options: Any) -> Prepared:
    """Bring every case of a dataset to its grid and write the prepared dataset. options: `PreprocessOptions`."""
    from rarecli.core.data.planning import PreprocessOptions
    from rarecli.core.data.preprocess import preprocess

    here: dict[str, Any] = {} if options.get("scheduler") else {"num_jobs": 1}
    index = preprocess(Path(dataset), Path(output), options_of(PreprocessOptions, here | options), reporter(progress))
    plan = index.plan
    return Prepared(
        Path(output), plan.dataset, len(index.cases), plan.spacing_mm, plan.patch_size, tuple(index.routing_plan), dict(index.failed)
    )


def train(
    prepared: PathLike,
    output: PathLike,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    config: PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Train on a prepared dataset and write the run.

    preset: a shipped configuration. config: a YAML or JSON file. settings: changes to it by key, such as {"optimiser.lr": 1e-3}.
    options: `TrainOptions`. With `resume` or `resume_from`, the configuration of that run is kept.
    """
    from rarecli.core.config.run_folder import load_resumed_config
    from rarecli.core.config.train_config import load_train_config

    try:
        from rarecli.core.training.train import TrainOptions, train
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    chosen, run = options_of(TrainOptions, options), Path(output)
    source = run if chosen.resume else chosen.resume_from
    base = load_resumed_config(source) if source else None
    settled = load_train_config(preset, Path(config) if config else None, dict(settings or {}), base)
    record = train(Path(prepared), run, settled, chosen, reporter(progress))
    last = {name: value for name, value in record.items() if name not in ("best", "best_epoch")}
    return Run(run, last, record.get("best"), record.get("best_epoch"))


def predict(
    inputs: PathLike | Iterable[PathLike],
    model: PathLike | Sequence[PathLike] | Predictor,
    output: PathLike,
    *,
    device: str = "auto",
    backend: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Predictions:
    """Segment scans and write their labels: a file for one scan, otherwise a folder. options: `PredictOptions`.

    model: a run, a bundle, a built-in name or an open predictor; several: their mean probabilities. A scan in memory: `Predictor.predict`.
    """
    from rarecli.core.prediction.predict import PredictOptions, predict

    choice = chosen_model(model, device, backend)
    result = predict(paths(inputs), choice, Path(output), options_of(PredictOptions, options), reporter(progress))
    cases = {
        name: CasePrediction(tuple(one["entry"]), one["reason"], one["volumes_mm3"], tuple(one["warnings"]), one["seconds"])
        for name, one in result["cases"].items()
    }
    return Predictions(Path(output), result["model"], result["backend"], cases, result["failed"])


def evaluate(
    dataset: PathLike,
    model: PathLike | Sequence[PathLike] | Predictor,
    output: PathLike,
    *,
    device: str = "auto",
    backend: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Scores:
    """Score a model on labelled scans at every resolution. model: as for `predict`. options: `EvaluateOptions`."""
    from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate

    choice = chosen_model(model, device, backend)
    summary = evaluate(Path(dataset), choice, Path(output), options_of(EvaluateOptions, options), reporter(progress))
    return _scores(Path(output), summary)


def score(
    references: PathLike,
    predictions: PathLike,
    output: PathLike,
    *,
    progress: bool = False,
    **options: Any,
) -> Scores:
    """Score label files from any source against references of the same names. options: `ScoreOptions`."""
    from rarecli.core.evaluation.score import ScoreOptions, score

    folders = Path(references), Path(predictions), Path(output)
    return _scores(Path(output), score(*folders, options_of(ScoreOptions, options), reporter(progress)))


def export(
    model: PathLike | Predictor,
    output: PathLike | None = None,
    *,
    calibrate: PathLike | None = None,
    cases: Sequence[str] | None = None,
    resample_channels: bool = False,
    triton: PathLike | None = None,
    serving: Mapping[str, Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> ExportedBundle:
    """Write the bundle of a model: one ONNX engine per entry, each checked against PyTorch. options: `ExportOptions`.

    calibrate: labelled scans on which the precisions are measured; cases: only these of them; resample_channels: bring channels on other
    grids to that of the first. triton: a repository in which the models are rendered for a server; without `output`, those of the bundle
    `model`. serving: `TritonOptions` by name.
    With `formats=["html"]` output is a page that segments, and options are `PageOptions`.
    """
    from rarecli.core.engines.model_files import find_model
    from rarecli.core.serving.repository import TritonOptions, render_repository, writes_page

    source, said = one_model(model), reporter(progress)
    if writes_page(options.get("formats", ()), output, triton, calibrate):
        assert output is not None
        from rarecli.core.engines.segment_page import PageOptions, write_segment_page

        del options["formats"]
        manifest = write_segment_page(source, Path(output), options_of(PageOptions, options), said)
        return _exported(Path(output), manifest)
    served = options_of(TritonOptions, serving or {})
    if output is not None:
        scans = None if calibrate is None else {"dataset": Path(calibrate), "names": cases, "resample_channels": resample_channels}
        _write_bundle(source, Path(output), options, scans, said)
    names = () if triton is None else render_repository(Path(output or source), Path(triton), served)
    bundle = find_model(Path(output or source)).bundle
    assert bundle is not None
    return _exported(bundle.path, bundle.manifest, names)


def benchmark(model: PathLike | Predictor | None, output: PathLike, *, progress: bool = False, **options: Any) -> Timing:
    """Measure the cost of each resolution on this machine. options: `BenchmarkOptions`; with `suite`, the model may be None.

    Raises SomeCasesFailed if a row failed that was asked for.
    """
    from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark, require_success
    from rarecli.core.benchmarking.report import table

    chosen = options_of(BenchmarkOptions, options)
    result = benchmark(None if model is None else one_model(model), Path(output), chosen, reporter(progress))
    require_success(result, Path(output))
    return Timing(Path(output), *table(result["rows"]), result)


def info(
    path: PathLike | None = None,
    model: PathLike | Predictor | None = None,
    *,
    picture: PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> Description:
    """Describe a file, a folder or a model; of a scan or a dataset also where the model would route it.

    picture: a PNG file in which a scan is drawn. options: `verify`, `backend` and `series` of `rarecli.core.info.info`.
    """
    from rarecli.core.info.info import info

    subject = None if path is None else Path(path)
    drawn = None if picture is None else Path(picture)
    return Description(info(subject, None if model is None else one_model(model), picture=drawn, reporter=reporter(progress), **options))


def models() -> list[BuiltInModel]:
    """Return the built-in models, with their data, labels, size and Dice."""
    from rarecli.core.info.built_in import models

    return models()


def _scores(output: Path, summary: Mapping[str, Any]) -> Scores:
    return Scores(output, summary["foreground_mean"]["dice"], summary)


def _write_bundle(model: Path, bundle: Path, options: Mapping[str, Any], scans: Mapping[str, Any] | None, said: Reporter) -> None:
    """Write a bundle. scans: the arguments of `export_calibrated` about the scans on which precisions are measured."""
    try:
        from rarecli.core.engines.export import ExportOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    from rarecli.core.benchmarking.precisions import export_calibrated

    chosen = options_of(ExportOptions, options)
    if scans is None:
        export(model, bundle, chosen, said)
    else:
        export_calibrated(model, bundle, options=chosen, reporter=said, **scans)


def _exported(path: Path, manifest: Manifest, triton_models: tuple[str, ...] = ()) -> ExportedBundle:
    return ExportedBundle(path, manifest.spec.name, manifest.entries, manifest.model_dump(mode="json"), triton_models)
