"""How well a prediction's quality, known without a reference, ranks its Dice: held-out cases of MSD Task04 at spacings of 1 to 8 mm.

    python benchmarks/quality.py DATASET RUN     # writes results/quality_hippocampus_fold0.json, and calibration.json of the built-in model

RUN is the run `hippocampus_fold0` of `benchmarks/hippocampus.py`. The scans are reacquired as `rare evaluate` does.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from recipes import RESULTS, Words

from rarecli import Predictor
from rarecli.core.config.calibration import save_calibration
from rarecli.core.config.run_folder import load_run_info
from rarecli.core.data.cases import read_image
from rarecli.core.data.layouts import open_dataset
from rarecli.core.evaluation.calibrate import calibrate, judge, rank_correlation
from rarecli.core.evaluation.resolutions import resolutions_of
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.jobs.files import write_json
from rarecli.core.prediction.quality import assess

MODEL = Path(__file__).parents[1] / "rarecli" / "models" / "hippocampus"
ISOTROPIC_MM = tuple((mm, mm, mm) for mm in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0))
THICK_MM = ((1.0, 1.0, 2.0), (1.0, 1.0, 4.0), (1.0, 1.0, 8.0), (4.0, 1.0, 1.0), (1.0, 4.0, 1.0), (2.0, 2.0, 4.0), (2.0, 2.0, 8.0))
WORST = 0.1
"""Share of the views that count as poor: those with the lowest Dice."""


def rows_of(cases: list, predictor: Predictor) -> list[dict]:
    """Return a row per case and spacing: Dice, confidence, agreement, each the mean over the labels."""
    wanted = ISOTROPIC_MM + THICK_MM
    resolutions = [one for one in resolutions_of(wanted, predictor.rules, RouteChoice()) if one.spacing_mm in ISOTROPIC_MM + THICK_MM]
    rows = []
    for number, case in enumerate(cases, start=1):
        for one in judge(case, predictor, resolutions, thorough=True):
            agreement = one.quality.agreement and float(np.mean(list(one.quality.agreement.values())))
            facts = {"case": case.name, "spacing_mm": one.resolution.spacing_mm, "entry": one.resolution.entry, "dice": one.dice}
            rows.append(facts | {"confidence": one.quality.mean_confidence, "agreement": agreement})
        print(number, "of", len(cases), flush=True)
    return rows


def correlations(rows: list[dict]) -> dict:
    """Return the rank correlation with Dice of both measures, over the rows where each is known."""
    found = {"num": len(rows)}
    for name in ("confidence", "agreement"):
        pairs = np.array([(row[name], row["dice"]) for row in rows if row[name] is not None])
        found[name] = round(rank_correlation(*pairs.T), 3) if len(pairs) else None
    return found


def doubted(rows: list[dict]) -> dict:
    """Return what a threshold from one half of the cases (the 5th percentile) finds in the other half, over both halves."""
    names = sorted({row["case"] for row in rows})
    halves = [[row for row in rows if (names.index(row["case"]) % 2 == part)] for part in (0, 1)]
    flagged, others, poor, found = [], [], 0, 0
    for known, new in (halves, halves[::-1]):
        least = np.percentile([row["confidence"] for row in known], 5)
        low = np.quantile([row["dice"] for row in new], WORST)
        for row in new:
            (flagged if row["confidence"] < least else others).append(row["dice"])
            poor += row["dice"] <= low
            found += row["dice"] <= low and row["confidence"] < least
    return {
        "share": len(flagged) / len(rows),
        "dice_doubted": np.mean(flagged),
        "dice_others": np.mean(others),
        "worst_tenth_found": found / poor,
    }


def cost(cases: list, predictor: Predictor) -> dict:
    """Return what --qc costs: the median of its seconds divided by those of the prediction, interleaved, at full resolution."""
    ratios = []
    for case in cases:
        volume, started = read_image(case), time.perf_counter()
        prediction, middle = predictor.predict(volume), time.perf_counter()
        assess(predictor, volume, prediction, thorough=True)
        ratios.append((time.perf_counter() - middle) / (middle - started))
    return {"num": len(ratios), "median_ratio": float(np.median(ratios))}


def main() -> None:
    dataset, run = map(Path, sys.argv[1:])
    names = set(load_run_info(run).split["val"])
    cases = [case for case in open_dataset(dataset).cases if case.name in names]
    with Predictor(run, device="cpu") as predictor:
        rows = rows_of(cases, predictor)
        seconds = cost(cases, predictor)
    views = {"all": rows, "isotropic": [row for row in rows if row["spacing_mm"] in ISOTROPIC_MM]}
    views["thick"] = [row for row in rows if row["spacing_mm"] in THICK_MM]
    by_spacing = {}
    for row in rows:
        by_spacing.setdefault(" x ".join(f"{mm:g}" for mm in row["spacing_mm"]), []).append(row)
    for part in by_spacing.values():
        part[:] = [correlations(part) | {"dice": float(np.mean([row["dice"] for row in part]))}]
    result = {
        "run": run.name,
        "num_cases": len(cases),
        "spearman": {name: correlations(part) for name, part in views.items()},
        "spearman_per_spacing": {name: facts for name, (facts,) in by_spacing.items()},
        "doubted": doubted(rows),
        "cost_of_qc": seconds,
        "rows": rows,
    }
    write_json(RESULTS / "quality_hippocampus_fold0.json", json.loads(json.dumps(result, default=float)))
    known = calibrate(dataset, Predictor(run, device="cpu"), Words(), overwrite=True)
    save_calibration(MODEL, known.model_copy(update={"weights_sha256": None}))  # MODEL is a bundle


if __name__ == "__main__":
    main()
