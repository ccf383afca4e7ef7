"""The validation of a training: Dice of prepared cases at every depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rarecli.core.config import ModelSpec
from rarecli.core.distributed import Ranks
from rarecli.core.engines.runners import Runner
from rarecli.core.metrics import Record, case_record, confusion_matrix, foreground_mean
from rarecli.core.patches import sliding_logits
from rarecli.core.prepared import PreparedDataset
from rarecli.core.preprocessing import normalise
from rarecli.core.protocols import downsampled


def validate(
    runner: Runner,
    dataset: PreparedDataset,
    spec: ModelSpec,
    names: Sequence[str],
    ranks: Ranks = Ranks(),
    device: torch.device = torch.device("cpu"),
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Mean Dice of prepared cases at every depth (dice_depth0, ...), over depths (dice_mean) and per class (dice_NAME).

    Ranks share the cases and add up voxel counts, which are whole numbers: the result does not depend on how many they are.
    device: where the ranks' tensors must lie. stopping: asked between cases; None is returned if it said yes on any rank.
    """
    num_depths, num_classes = spec.network.num_depths, spec.plan.num_classes
    counts = torch.zeros(len(names) * num_depths * num_classes**2 + 1, dtype=torch.int64)
    confusions = counts[:-1].view(len(names), num_depths, num_classes, num_classes).numpy()
    with runner, ranks.signing():
        for name in ranks.share(list(names)):
            if stopping():
                counts[-1] = 1
                break
            image, labels = dataset.read(name)
            finest = dataset.records[name].depth
            for depth in range(finest, num_depths):
                coarse, reference = downsampled(image, labels, spec, depth - finest, spec.targets)
                view = normalise(coarse, spec.plan.normalisation)
                prediction = sliding_logits(view, spec, depth, runner.run).argmax(axis=0)
                confusions[names.index(name), depth] = confusion_matrix(prediction, reference, num_classes)
    counts = ranks.add(counts.to(device)).cpu()
    if counts[-1]:
        return None
    confusions = counts[:-1].view(len(names), num_depths, num_classes, num_classes).numpy()
    by_depth: dict[int, list[Record]] = {}
    for name, of_case in zip(names, confusions, strict=True):
        for depth in range(dataset.records[name].depth, num_depths):
            by_depth.setdefault(depth, []).append(case_record(of_case[depth], spec.plan.label_names))
    result = {f"dice_depth{depth}": float(np.mean([foreground_mean(r) for r in by_depth[depth]])) for depth in sorted(by_depth)}
    result["dice_mean"] = float(np.mean(list(result.values())))
    for label in spec.plan.label_names[1:]:
        result[f"dice_{label}"] = float(np.mean([np.mean([r[label]["dice"] for r in records]) for records in by_depth.values()]))
    return result
