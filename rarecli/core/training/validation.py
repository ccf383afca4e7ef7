"""Validation during a training: Dice of prepared cases at every depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.evaluation.metrics import Record, case_record, foreground_mean
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.imaging.sliding_window import sliding_logits
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.training.augmentation import Changes
from rarecli.core.training.multi_resolution import make_samples
from rarecli.core.training.patches import Patch


def reference_labels(dataset: PreparedDataset, spec: ModelSpec, names: Sequence[str]) -> list[str]:
    """The foreground classes that some of these cases have; all of them if no case has any.

    A class that no case has is right for a model that never predicts it: it says nothing.
    """
    voxels = np.sum([dataset.records[name].voxels_per_class for name in names], axis=0)
    present = [label for label, num in zip(spec.plan.label_names[1:], voxels[1:], strict=True) if num]
    return present or list(spec.plan.label_names[1:])


def validate(
    runner: TorchRunner,
    dataset: PreparedDataset,
    spec: ModelSpec,
    names: Sequence[str],
    ranks: Ranks = Ranks(),
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Return the mean Dice of prepared cases at every depth (dice_depth0, ...), over depths (dice_mean) and per class (dice_NAME).

    Classes that none of the cases has are left out.

    Scans are prepared, predicted and compared on the runner's device. Only voxel counts are read back, once. Ranks share the cases and
    sum these counts. Counts are whole numbers, so the result does not depend on the number of ranks.
    stopping: called between cases. If it returns True on any rank, the result is None.
    """
    rules, num_depths, num_classes = rules_of(spec), spec.network.num_depths, spec.plan.num_classes
    counts = torch.zeros(len(names) * num_depths * num_classes**2 + 1, dtype=torch.int64, device=runner.device)
    confusions = counts[:-1].view(len(names), num_depths, num_classes**2)
    with runner, ranks.signing():
        for name in ranks.share(list(names)):
            if stopping():
                counts[-1] = 1
                break
            image, labels = (torch.from_numpy(np.array(part)) for part in dataset.read(name))
            finest = dataset.records[name].depth
            [sample] = make_samples([Patch(image, labels, finest, finest, Changes())], spec, runner.device)
            for depth, view in sample.images.items():
                prediction = sliding_logits(view, rules, depth, runner.run_there).argmax(dim=0)
                pairs = sample.labels[depth].flatten().long() * num_classes + prediction.flatten()
                confusions[names.index(name), depth].scatter_add_(0, pairs, torch.ones_like(pairs))
    found = ranks.add(counts).cpu().numpy()
    if found[-1]:
        return None
    scored = reference_labels(dataset, spec, names)
    by_depth: dict[int, list[Record]] = {}
    for name, of_case in zip(names, found[:-1].reshape(len(names), num_depths, num_classes, num_classes), strict=True):
        for depth in range(dataset.records[name].depth, num_depths):
            record = case_record(of_case[depth], spec.plan.label_names)
            by_depth.setdefault(depth, []).append({label: record[label] for label in scored})
    result = {f"dice_depth{depth}": float(np.mean([foreground_mean(r) for r in by_depth[depth]])) for depth in sorted(by_depth)}
    result["dice_mean"] = float(np.mean(list(result.values())))
    for label in scored:
        result[f"dice_{label}"] = float(np.mean([np.mean([r[label]["dice"] for r in records]) for records in by_depth.values()]))
    return result
