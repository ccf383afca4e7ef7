"""What the built-in models score on eight cases they were trained on, and find in a phantom.

    python tests/golden/built_in.py > tests/golden/built_in.json

A guard against change, not a measure of accuracy: these are training cases, and a phantom is no hippocampus.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from rarecli import Phantom, Predictor
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate

DATASET = Path(__file__).parents[3] / "shared" / "data" / "Task04_Hippocampus"
CASES = [f"hippocampus_{number}" for number in ("001", "037", "084", "125", "185", "236", "288", "330")]
PROTOCOLS = {"hippocampus": "native", "hippocampus-paper": "paper"}


def dice_of(model: str) -> list[float]:
    """Mean Dice of the eight cases at depth 0, 1, 2, 3."""
    with Predictor(model, backend="openvino") as predictor, tempfile.TemporaryDirectory() as output:
        summary = evaluate(
            DATASET, predictor, Path(output), EvaluateOptions(protocol=PROTOCOLS[model], names=CASES, upsampled=False, surface=False)
        )
    return [round(values["dice"], 4) for values in summary["per_depth"].values()]


def voxels_of(model: str) -> list[list[int]]:
    """Voxels of each class in a phantom of 1, 2, 4 and 8 mm."""
    with Predictor(model, backend="openvino") as predictor:
        found = [predictor.predict(Phantom(0).acquire(spacing)[0]).labels for spacing in (1.0, 2.0, 4.0, 8.0)]
    return [np.bincount(labels.ravel(), minlength=3).tolist() for labels in found]


if __name__ == "__main__":
    print(json.dumps({model: {"dice": dice_of(model), "phantom_voxels": voxels_of(model)} for model in built_in_models()}, indent=1))
