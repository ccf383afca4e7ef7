"""What --coarse-to-fine saves and loses.

python benchmarks/large_scans.py                      # counts for a scan of 512 x 512 x 300; writes results/large_scans.json
python benchmarks/large_scans.py DATASET RUN CASE     # predicts a held-out case both ways, and prints FLOP, seconds and Dice
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from recipes import RESULTS

from rarecli import Predictor
from rarecli.core.config.geometry import coarser_entry
from rarecli.core.config.network_cost import count
from rarecli.core.data.cases import class_indices, read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.engines.model_files import find_model
from rarecli.core.evaluation.case_selection import choose_cases
from rarecli.core.imaging.overlap import dice
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.sliding_window import num_windows
from rarecli.core.jobs.files import write_json
from rarecli.core.prediction.regions import FINDER_STEPS, Where, predict_where

LARGE, SHARE = (512, 512, 300), 0.05


def counts() -> dict:
    """Return how many times less FLOP the built-in network takes in a scan of 512 x 512 x 300, for two shapes that fill 5 % of it.

    The coarse entry finds the shape exactly; its box is grown by one coarse voxel.
    """
    rules = find_model(Path("hippocampus")).rules
    fine = rules.entry((0, 0, 0))
    finder = rules.entry(coarser_entry(fine.entry, [(depth,) * 3 for depth in range(4)], FINDER_STEPS))
    step = 2 ** finder.entry[0]

    def flop(rule, shape, overlap):
        window = rule.window(shape)
        num = num_windows(shape, window, rules.window.model_copy(update={"overlap": overlap}))
        return num * count(rules.spec.network, rule.entry, window).flop

    whole = flop(fine, LARGE, rules.window.overlap)
    finding = flop(finder, tuple(size // step for size in LARGE), 0.0)
    found = {"shape": LARGE, "share": SHARE, "flop_whole": whole, "finder_share": finding / whole}
    for name, filled in (("ball", np.pi / 6), ("cuboid", 1.0)):
        box = tuple(int(np.ceil(size * (SHARE / filled) ** (1 / 3))) + 2 * step for size in LARGE)
        found[name] = {"box": box, "times_less_flop": whole / (finding + flop(fine, box, rules.window.overlap))}
    return found


def both_ways(dataset: Path, run: Path, name: str) -> dict:
    """Return FLOP, seconds and Dice per label of one case, coarse to fine and as a whole."""
    (case,) = choose_cases(open_dataset(dataset).cases, [name])
    with Predictor(run, device="cpu") as predictor:
        spec, forward, flop = predictor.spec, predictor.runner.run, [0]
        scan, reference = read_case(case, spec.plan.label_values)

        def counted(image, entry):
            flop[0] += count(spec.network, entry, image.shape[2:]).flop
            return forward(image, entry)

        predictor.runner.run = counted
        row: dict = {"case": name, "share": float((reference.data > 0).mean())}
        for way, where in (("coarse_to_fine", Where(coarse_to_fine=True)), ("whole", Where())):
            flop[0], started = 0, time.perf_counter()
            found = predict_where(predictor, scan, where, RouteChoice(entries=predictor.runner.entries), pad=True, probabilities=False)
            classes = class_indices(found.labels, spec.plan.label_values)
            scores = dice(classes, reference.data[0], spec.plan.num_classes)[1:]
            row[way] = {"flop": flop[0], "seconds": time.perf_counter() - started, "dice": scores.tolist(), "reason": found.reason}
    return row


def main() -> None:
    if len(sys.argv) > 1:
        dataset, run, name = sys.argv[1:]
        print(json.dumps(both_ways(Path(dataset), Path(run), name)))
    else:
        write_json(RESULTS / "large_scans.json", counts())


if __name__ == "__main__":
    main()
