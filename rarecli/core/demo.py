"""`rare demo`: run every step on phantoms, as a user would, in one folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark, require_success
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import Phantom, write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.score import ScoreOptions, score
from rarecli.core.jobs.files import require_writable, write_json
from rarecli.core.jobs.outputs import require_new_folder
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.signals import interruption_means
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.training.train import train
from rarecli.core.types import FloatArray

_NUM_TRAIN, _NUM_TEST = 40, 12
_SPACINGS_MM = (1.0, 2.0, 4.0, 8.0)


@interruption_means("start the demo again with --overwrite")
def demo(output: Path, reporter: Reporter = Silent(), *, overwrite: bool = False) -> dict[str, Any]:
    """Make phantoms, preprocess, train, predict at four resolutions, evaluate, export, benchmark; write and return demo.json.

    The test phantoms are acquired at each spacing, not downsampled. Each row holds the Dice (mean over classes and phantoms) of
    routing, of the same weights on the scan upsampled to depth 0, and of the best intensity threshold.
    """
    require_new_folder(output, "phantoms", "a demo", again=overwrite, resumable=False)
    started = time.perf_counter()
    require_writable(output)
    reporter.say("1/7 phantoms: scans of known objects")
    write_phantoms(output / "phantoms", range(_NUM_TRAIN))
    _write_test(output / "test")
    reporter.say("2/7 preprocess")
    preprocess(output / "phantoms", output / "prepared", PreprocessOptions(overwrite=True), reporter)
    reporter.say("3/7 train")
    run = output / "run"
    for old in run.glob("*.safetensors"):
        old.unlink()
    train(output / "prepared", run, load_train_config("smoke"), reporter=reporter)
    reporter.say("4/7 predict, at four resolutions, routed and upsampled to depth 0")
    rows = [{"resolution": f"{spacing:g} mm", "depth": depth} for depth, spacing in enumerate(_SPACINGS_MM)]
    with Predictor(run) as predictor:
        for row, spacing in zip(rows, _SPACINGS_MM, strict=True):
            for method, entry in (("routed", None), ("upsampled", (0, 0, 0))):
                labels = output / "predictions" / method / f"{spacing:g}mm"
                records = predict([_test(output, spacing) / "imagesTr"], predictor, labels, PredictOptions(entry=entry, overwrite=True))[
                    "cases"
                ]
                if method == "routed":
                    row["depth"] = next(iter(records.values()))["entry"][0]
                folder = output / "scores" / method / f"{spacing:g}mm"
                scores = score(_test(output, spacing) / "labelsTr", labels, folder, ScoreOptions(surface=False, overwrite=True))
                row[method] = scores["foreground_mean"]["dice"]
            row["threshold"] = _threshold_dice(spacing)
        reporter.say("5/7 evaluate: the finest test scans, downsampled")
        evaluate(_test(output, 1.0), predictor, output / "evaluation", EvaluateOptions(surface=False, overwrite=True))
    reporter.say("6/7 export: one ONNX engine per entry")
    export(run, output / "bundle", ExportOptions(overwrite=True), reporter)
    reporter.say("7/7 benchmark")
    timed = benchmark(output / "bundle", output / "timing", BenchmarkOptions(upsampled=False, cold_start=False, overwrite=True), reporter)
    require_success(timed, output / "timing")
    for row in rows:
        for backend in ("torch", "onnx"):
            row[f"{backend}_ms"] = next(
                (
                    t["statistics"]["compute"]["p50_ms"]
                    for t in timed["rows"]
                    if (t["backend"], t["entry"], t["status"]) == (backend, [row["depth"]] * 3, "ok")
                ),
                None,
            )
    result = {"num_test": _NUM_TEST, "seconds": time.perf_counter() - started, "rows": rows}
    write_json(output / "demo.json", result)
    return result


def _test(output: Path, spacing_mm: float) -> Path:
    return output / "test" / f"{spacing_mm:g}mm"


def _test_seeds() -> range:
    return range(1000, 1000 + _NUM_TEST)


def _write_test(root: Path) -> None:
    """Write the test phantoms, acquired at every spacing."""
    for spacing in _SPACINGS_MM:
        write_phantoms(root / f"{spacing:g}mm", _test_seeds(), spacing)


def _threshold_dice(spacing_mm: float) -> float:
    """Return the mean Dice of the best single intensity threshold for all test phantoms, with head and tail as one class."""
    scans = [Phantom(seed).acquire(spacing_mm) for seed in _test_seeds()]
    images = np.stack([image.data[0] for image, _ in scans])
    masks = np.stack([labels.data[0] > 0 for _, labels in scans])

    def mean_dice(threshold: float) -> float:
        above = images > threshold
        axes = (1, 2, 3)
        both: FloatArray = (above & masks).sum(axes)
        return float(np.mean(2 * both / (above.sum(axes) + masks.sum(axes))))

    return max(mean_dice(threshold) for threshold in np.quantile(images, np.linspace(0.3, 0.99, 70)))
