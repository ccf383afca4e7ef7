"""Adds the Dice of every isotropic entry to a benchmark, from one evaluation per precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rarecli.core.benchmarking.options import BenchmarkOptions
from rarecli.core.benchmarking.rows import OK
from rarecli.core.benchmarking.suites import ROUTED
from rarecli.core.errors import RareError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.jobs.files import read_json
from rarecli.core.jobs.progress import Reporter
from rarecli.core.prediction.predictor import Predictor


def join_accuracy(
    model: Path | None, records: list[dict[str, Any]], output: Path, options: BenchmarkOptions, reporter: Reporter
) -> list[dict[str, Any]]:
    """Add to every routed row the Dice of its depth, if it has one along all axes. Returns one record per evaluated precision."""
    if options.dataset is None or model is None:
        return []
    found = []
    good = [record for record in records if record["status"] == OK and record["method"] == ROUTED and len(set(record["entry"])) == 1]
    for precision in dict.fromkeys(record["precision"] for record in good):
        mine = [record for record in good if record["precision"] == precision]
        # engines of one precision predict the same labels, so one evaluation counts for all
        backend = "auto" if precision == "fp32" else mine[0]["backend"]
        folder = output / f"accuracy_{precision}"
        facts: dict[str, Any] = {"precision": precision, "status": OK}
        try:
            with Predictor(model, options.device, backend, precision=precision) as predictor:
                facts["backend"] = predictor.runner.backend
                scoring = EvaluateOptions(
                    depths=sorted({record["entry"][0] for record in mine}),
                    protocol=options.protocol,
                    names=options.cases,
                    upsampled=False,
                    surface=False,
                    overwrite=True,
                )
                evaluate(options.dataset, predictor, folder, scoring, reporter)
        except RareError as error:
            facts["status"] = f"failed: {error.problem}"
        if (folder / "summary.json").is_file():  # it exists even if some cases failed
            facts["dice"] = {depth: part["dice"] for depth, part in read_json(folder / "summary.json")["per_depth"].items()}
            for record in mine:
                record["dice"] = facts["dice"].get(str(record["entry"][0]))
        found.append(facts)
    return found
