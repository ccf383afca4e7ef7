"""Times --coarse-to-fine in scans of 512 x 512 x 300 voxels whose object fills 5 %, and says what Dice it loses.

    python benchmarks/large_phantom.py WORK

Trains the network of the preset `hippocampus` on phantoms of 160^3 voxels whose objects have many sizes, then predicts two large phantoms
as a whole and coarse to fine: a ball, and a rounded cube that fills more of its box. A finished training is kept. What is timed is a
network that finds the object: the coarse entry computes, and the true labels of its grid take the place of its own. What it finds itself
is reported too. Writes results/large_phantom.json.

The object is a shell around a brighter core, each with a texture. It lies in smooth tissue with noise, among small ellipsoids that are as
bright as shell or core. A threshold does not separate them; size and texture do, and coarse scans show only size.
"""

import argparse
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from recipes import RESULTS, Words, train_run

from rarecli import Predictor
from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.geometry import entry_text
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.imaging.overlap import dice
from rarecli.core.imaging.regions import boxes_of_parts
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume, write_image, write_labels
from rarecli.core.jobs.files import write_json
from rarecli.core.prediction.regions import Where, predict_where

LARGE, SHARE = (512, 512, 300), 0.05
SMALL, NUM_SMALL, PATCH = (160, 160, 160), 32, (48, 48, 48)
OVERRIDES = {
    "fold": "all",
    "epochs": 45,
    "thick_views": 0,
    "foreground_share": 0.5,
    "ema_decay": 0.98,
    "augmentation.probability": 0.3,
    "augmentation.spacing_octaves": 0.0,
}
WIDE = OVERRIDES | {"epochs": 12, "wide_views": True, "coarse_from": 1, "coarse_views": 1, "optimiser.lr": 1e-3}
"""Goes on from there with views of coarse scans as a whole: in small windows of 8 mm, an object looks like tissue."""
VOLUMES = {2: 4 / 3 * np.pi, 6: 7.2077}
"""Volume of |x|^p + |y|^p + |z|^p < 1 by p: the ball, and a cube with round edges: 8 gamma(1 + 1/p)^3 / gamma(1 + 3/p)."""
TEXTURES = {1: (0.8, 14.0), 2: (1.1, 9.0)}
"""Brightness of shell and core, and the length of their ripples in voxels."""
CORE = 0.6
"""Radius of the core over that of the object."""


@dataclass(frozen=True)
class Thing:
    """An object: radius and place in voxels; power 2 is a ball, 6 a rounded cube."""

    radius: float
    centre: tuple
    power: int


def acquire(shape: tuple, thing: Thing, seed: int) -> tuple:
    """Return image float32 and labels uint8 (X, Y, Z): 0, 1 the shell, 2 the core. Voxels of 1 mm."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    waves = [(rng.normal(0, 0.06, 3), rng.uniform(0, 2 * np.pi)) for _ in range(4)]
    image = np.full(shape, 0.5, dtype=np.float32)
    for wave, phase in waves:
        image += 0.06 * np.cos(sum(w * c for w, c in zip(wave.astype(np.float32), axes, strict=True)) + np.float32(phase))
    for _ in range(int(np.prod(shape) / 64000)):  # one in 40 mm along each axis
        place, size, bright = rng.uniform(0, shape), rng.uniform(2, 5, 3), rng.choice([mean for mean, _ in TEXTURES.values()])
        box = tuple(slice(max(0, int(p - s)), int(p + s) + 2) for p, s in zip(place, size, strict=True))
        near = np.ogrid[tuple(slice(part.start, min(part.stop, size)) for part, size in zip(box, shape, strict=True))]
        inside = sum(((c - p) / s) ** 2 for c, p, s in zip(near, place, size, strict=True)) < 1
        image[box][inside] = bright
    distance = sum(abs((c - p) / thing.radius) ** thing.power for c, p in zip(axes, thing.centre, strict=True)) ** (1 / thing.power)
    labels = np.uint8(distance < 1) + np.uint8(distance < CORE)
    for label, (brightness, length) in TEXTURES.items():
        ripples = [np.cos(2 * np.pi / length * c + rng.uniform(0, 2 * np.pi)).astype(np.float32) for c in axes]
        image = np.where(labels == label, brightness + np.float32(0.4) * ripples[0] * ripples[1] * ripples[2], image)
    image += 0.05 * rng.standard_normal(shape, dtype=np.float32)
    return image, labels


def write_small(root: Path) -> None:
    """Write the training scans in the MSD layout."""
    cases = []
    for seed in range(NUM_SMALL):
        rng = np.random.default_rng([seed, 1])
        thing = Thing(float(np.exp(rng.uniform(np.log(16), np.log(110)))), tuple(rng.uniform(0, SMALL)), int(rng.choice(list(VOLUMES))))
        image, labels = acquire(SMALL, thing, seed)
        name = f"phantom_{seed:02d}.nii.gz"
        write_image(root / "imagesTr" / name, image, Volume(image[None], np.eye(4)))
        write_labels(root / "labelsTr" / name, labels, Volume(labels[None], np.eye(4)))
        cases.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    facts = {"name": "Phantoms", "modality": {"0": "phantom"}, "labels": {"0": "background", "1": "shell", "2": "core"}}
    write_json(root / "dataset.json", facts | {"numTraining": len(cases), "training": cases})


def large(power: int) -> tuple:
    """Return a scan of 512 x 512 x 300, away from its centre, and its labels."""
    radius = (SHARE * np.prod(LARGE) / VOLUMES[power]) ** (1 / 3)
    thing = Thing(radius, (230.0, 290.0, 145.0), power)
    image, labels = acquire(LARGE, thing, 1000 + power)
    return Volume(image[None], np.eye(4)), labels


@contextmanager
def ideal_finder(predictor: Predictor, reference: np.ndarray):
    """Let the coarse entry compute, and give the true labels of its grid in place of its own: what a network that finds the object does."""
    segment, step = predictor.segment, 8
    blocks = np.pad(reference, [(0, -size % step) for size in reference.shape])
    x, y, z = (size // step for size in blocks.shape)
    filled = (blocks.reshape(x, step, y, step, z, step) > 0).mean(axis=(1, 3, 5)) >= 0.5
    coarse = np.kron(filled, np.ones((step,) * 3, dtype=np.uint8))[tuple(map(slice, reference.shape))]

    def found(scan, choice, **options):
        answer = segment(scan, choice, **options)
        return replace(answer, labels=coarse) if choice.entry == (3, 3, 3) else answer

    predictor.segment = found
    yield
    predictor.segment = segment


def predicted(predictor: Predictor, scan: Volume, reference: np.ndarray, where: Where) -> dict:
    """Return the seconds, processor seconds and Dice of a prediction."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = predict_where(predictor, scan, where, RouteChoice(entries=predictor.runner.entries), pad=True, probabilities=False)
    row = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    row |= {"dice": [round(float(score), 5) for score in dice(found.labels, reference, 3)[1:]], "reason": found.reason}
    print(row, flush=True)
    return row


def all_ways(predictor: Predictor, power: int) -> dict:
    """Return one large phantom, coarse to fine with an ideal finder, as a whole, and the Dice of each coarser entry alone."""
    scan, reference = large(power)
    row: dict = {"power": power, "share": float((reference > 0).mean())}
    with ideal_finder(predictor, reference):
        row["coarse_to_fine"] = predicted(predictor, scan, reference, Where(coarse_to_fine=True))
    row["whole"] = predicted(predictor, scan, reference, Where())
    row["times_faster"] = {unit: row["whole"][unit] / row["coarse_to_fine"][unit] for unit in ("wall_s", "cpu_s")}
    row["finders"] = {}
    for entry in ((2, 2, 2), (3, 3, 3)):
        labels = predictor.segment(scan, RouteChoice(entry, predictor.runner.entries), sparse=True).labels
        scores, boxes = dice(labels, reference, 3)[1:], boxes_of_parts(labels, (8, 8, 8))
        row["finders"][entry_text(entry)] = {"dice": scores.tolist(), "boxes": len(boxes), "share": share_of(boxes)}
        print(row["finders"], flush=True)
    return row


def share_of(boxes: list) -> float:
    """Return the share of a large scan that boxes fill together."""
    return sum(np.prod([part.stop - part.start for part in box]) for box in boxes) / float(np.prod(LARGE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    prepared = options.work / "prepared"
    if not (prepared / "prepared.json").is_file():
        write_small(options.work / "phantoms")
        preprocess(options.work / "phantoms", prepared, PreprocessOptions(patch_size=PATCH), Words())
    small = train_run(prepared, options.work / "small", load_train_config("hippocampus", overrides=OVERRIDES))
    run = train_run(prepared, options.work / "wide", load_train_config("hippocampus", overrides=WIDE), init=small)
    if options.train_only:
        return
    bundle = options.work / "bundle"
    if not (bundle / "manifest.json").is_file():
        export(run, bundle, ExportOptions(entries="isotropic"), Words())
    with Predictor(bundle, backend="openvino") as predictor:
        facts = {"machine": describe_machine(os.cpu_count() or 1), "load_1_min": os.getloadavg()[0]}
        rows = [all_ways(predictor, power) for power in VOLUMES]
    write_json(RESULTS / "large_phantom.json", {"shape": LARGE, **facts, "rows": rows})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
