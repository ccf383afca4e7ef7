"""What --coarse-to-fine saves and loses, and the memory of large scans.

python benchmarks/large_scans.py                      # counts for a scan of 512 x 512 x 300; writes results/large_scans.json
python benchmarks/large_scans.py DATASET RUN CASE     # predicts a held-out case both ways, and prints FLOP, seconds and Dice
python benchmarks/large_scans.py 512,512,300          # prints the peak memory of a scan with 3 classes; the network only repeats its input
python benchmarks/large_scans.py 512,512,300 RUN      # the same with the network of a run
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from recipes import RESULTS, Words

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
from rarecli.core.prediction.predict import predict
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


def memory(shape: tuple, run: Path | None) -> dict:
    """Return what `rare predict` says before it starts, the peak memory of this process, and what it had before the scan, in GB."""
    said: list = []
    reporter = type("Lines", (Words,), {"say": lambda _, text: said.append(text)})()
    with TemporaryDirectory() as folder, Predictor(run or "hippocampus", device="cpu", backend="torch") as predictor:
        scan = Path(folder) / "scan.nii"
        data = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
        nib.save(nib.Nifti1Image(data, np.diag([*predictor.spec.plan.spacing_mm, 1])), scan)
        del data
        if run is None:
            predictor.runner.run = lambda image, _: np.repeat(image, predictor.spec.plan.num_classes, axis=1)
        predictor.predict(np.zeros((48, 64, 48), dtype=np.float32), (1, 1, 1))  # libraries are loaded
        before, started = Path("/proc/self/statm").read_text().split()[1], time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        predict([scan], predictor, Path(folder) / "labels.nii.gz", reporter=reporter)
        seconds = time.perf_counter() - started
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    gb = {"before": int(before) * 4096 / 1e9, "peak": int(status["VmHWM"].split()[0]) * 1024 / 1e9}
    return {"shape": shape, "network": run is not None, "said": said[1], "seconds": seconds} | gb


def main() -> None:
    if len(sys.argv) > 1 and "," in sys.argv[1]:
        x, y, z = map(int, sys.argv[1].split(","))
        print(json.dumps(memory((x, y, z), Path(sys.argv[2]) if len(sys.argv) > 2 else None)))
    elif len(sys.argv) > 1:
        dataset, run, name = sys.argv[1:]
        print(json.dumps(both_ways(Path(dataset), Path(run), name)))
    else:
        write_json(RESULTS / "large_scans.json", counts())


if __name__ == "__main__":
    main()
