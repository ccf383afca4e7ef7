"""What --coarse-to-fine saves and loses: phantoms in scans of twenty times their volume, and windows counted for 512 x 512 x 300.

python benchmarks/large_scans.py RUN     # writes results/large_scans.json; RUN: the run of `rare demo`
"""

import sys
import time
from pathlib import Path

import numpy as np
from recipes import RESULTS

from rarecli import Phantom, Predictor, Volume
from rarecli.core.config.network_cost import count
from rarecli.core.engines.model_files import find_model
from rarecli.core.imaging.overlap import dice
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.sliding_window import num_windows
from rarecli.core.jobs.files import write_json
from rarecli.core.prediction.regions import Where, finding_entry, predict_where

SIZE = 87
"""Voxels of 1 mm along each axis. The phantom's field of view, 32 mm, fills 5 % of the volume."""
SEEDS = range(1000, 1004)
LARGE, SHARE = (512, 512, 300), 0.05


def scene(seed: int) -> tuple[Volume, np.ndarray]:
    """Return a phantom in a large field of the same tissue, and its classes (X, Y, Z), both at the centres of the voxels."""
    phantom = Phantom(seed)
    shift = np.random.default_rng(seed).integers(-25, 26, 3)
    points = np.ix_(*((np.arange(SIZE) + 0.5 - SIZE / 2 + move) for move in shift))
    image = phantom.intensities_at(*points)[0]
    image += np.random.default_rng([seed, 1]).normal(0, phantom.noise, image.shape)
    return Volume(image[None].astype(np.float32), np.eye(4)), phantom.classes_at(*points)


def phantoms(run: Path) -> list[dict]:
    """Return per phantom, for the whole scan and coarse to fine: Dice, FLOP, seconds; and their ratios."""
    rows = []
    with Predictor(run, device="cpu") as predictor:
        network, forward, flop = predictor.spec.network, predictor.runner.run, [0]

        def counted(image: np.ndarray, entry: tuple) -> np.ndarray:
            flop[0] += count(network, entry, image.shape[2:]).flop
            return forward(image, entry)

        predictor.runner.run = counted
        for seed in SEEDS:
            scan, reference = scene(seed)
            row: dict = {"seed": seed}
            for name, where in (("whole", Where()), ("coarse_to_fine", Where(coarse_to_fine=True))):
                flop[0], started = 0, time.perf_counter()
                choice = RouteChoice(entries=predictor.runner.entries)
                found = predict_where(predictor, scan, where, choice, pad=True, probabilities=False)
                facts = {"seconds": time.perf_counter() - started, "flop": flop[0], "reason": found.reason}
                row[name] = facts | {"dice": float(dice(found.labels, reference, 3)[1:].mean())}
            row["times_less_flop"] = row["whole"]["flop"] / row["coarse_to_fine"]["flop"]
            row["times_faster"] = row["whole"]["seconds"] / row["coarse_to_fine"]["seconds"]
            row["dice_lost"] = row["whole"]["dice"] - row["coarse_to_fine"]["dice"]
            rows.append(row)
            print(seed, {key: round(row[key], 3) for key in ("times_less_flop", "times_faster", "dice_lost")}, flush=True)
    return rows


def counts() -> dict:
    """Return how many times less FLOP the built-in network takes in a scan of 512 x 512 x 300, for two shapes that fill 5 % of it."""
    rules = find_model(Path("hippocampus")).rules
    fine = rules.entry((0, 0, 0))
    finder = rules.entry(finding_entry(fine.entry, [(depth,) * 3 for depth in range(4)]))
    step = 2 ** finder.entry[0]

    def flop(rule, shape, overlap):
        window = rule.window(shape)
        num = num_windows(shape, window, rules.window.model_copy(update={"overlap": overlap}))
        return num * count(rules.spec.network, rule.entry, window).flop

    whole = flop(fine, LARGE, rules.window.overlap)
    finding = flop(finder, tuple(size // step for size in LARGE), 0.0)
    found = {"finder_share": finding / whole}
    for name, filled in (("ball", np.pi / 6), ("cuboid", 1.0)):
        box = tuple(int(np.ceil(size * (SHARE / filled) ** (1 / 3))) + 2 * step for size in LARGE)
        found[name] = {"box": box, "times_less_flop": whole / (finding + flop(fine, box, rules.window.overlap))}
    return found


def main() -> None:
    rows = phantoms(Path(sys.argv[1]))
    medians = {key: float(np.median([row[key] for row in rows])) for key in ("times_less_flop", "times_faster", "dice_lost")}
    facts = {"worst_dice_lost": max(row["dice_lost"] for row in rows), "mean_dice_lost": float(np.mean([row["dice_lost"] for row in rows]))}
    dices = {name: float(np.mean([row[name]["dice"] for row in rows])) for name in ("whole", "coarse_to_fine")}
    result = {"num": len(rows), "median": medians, "mean_dice": dices, **facts, "scan_512x512x300": counts(), "rows": rows}
    write_json(RESULTS / "large_scans.json", result)


if __name__ == "__main__":
    main()
