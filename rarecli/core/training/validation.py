"""Validation during a training: Dice of prepared cases at every depth, and with thick slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.plan import IGNORED
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.evaluation.metrics import Record, case_record, foreground_mean
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.imaging.sliding_window import logits_in_slabs, num_windows
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.training.augmentation import Changes
from rarecli.core.training.multi_resolution import make_samples
from rarecli.core.training.patches import Patch
from rarecli.core.types import Entry


def reference_labels(dataset: PreparedDataset, spec: ModelSpec, names: Sequence[str]) -> list[str]:
    """The foreground classes that some of these cases have; all of them if no case has any.

    A class that no case has is right for a model that never predicts it: it says nothing.
    """
    voxels = np.sum([dataset.records[name].voxels_per_class for name in names], axis=0)
    present = [label for label, num in zip(spec.plan.label_names[1:], voxels[1:], strict=True) if num]
    return present or list(spec.plan.label_names[1:])


def thick_entries(spec: ModelSpec, finest: int) -> tuple[Entry, ...]:
    """The entries that stand for thick slices: along each axis two depths coarser than the plane, which is at the finest depth."""
    through = min(finest + 2, spec.network.num_depths - 1)
    if not spec.per_axis or through <= finest:
        return ()
    return (finest, finest, through), (finest, through, finest), (through, finest, finest)


def validate(
    runner: TorchRunner,
    dataset: PreparedDataset,
    spec: ModelSpec,
    names: Sequence[str],
    ranks: Ranks = Ranks(),
    stopping: Callable[[], bool] = lambda: False,
    reporter: Reporter = Silent(),
) -> dict[str, float] | None:
    """Return the mean Dice of prepared cases at every depth (dice_depth0, ...), over depths (dice_mean) and per class (dice_NAME).

    dice_thick is the mean over `thick_entries`, if the model has them. Classes that none of the cases has are left out.

    Scans are prepared, predicted and compared on the runner's device. Only voxel counts are read back, once. Ranks share the cases and
    sum these counts. Counts are whole numbers, so the result does not depend on the number of ranks.
    stopping: called between cases. If it returns True on any rank, the result is None.
    """
    rules, num_depths, num_classes = rules_of(spec), spec.network.num_depths, spec.plan.num_classes
    num_views = num_depths + 3
    counts = torch.zeros(len(names) * num_views * num_classes**2 + 1, dtype=torch.int64, device=runner.device)
    confusions = counts[:-1].view(len(names), num_views, num_classes**2)
    with runner, ranks.signing():
        mine = ranks.share(list(names))
        for name in reporter.track(mine, "validate", len(mine)):
            if stopping():
                counts[-1] = 1
                break
            image, labels = (torch.from_numpy(np.array(part)) for part in dataset.read(name))
            finest = dataset.records[name].depth
            views = _views(spec, finest)
            [sample] = make_samples([Patch(image, labels, finest, tuple(views.values()), Changes())], spec, runner.device)
            for view, entry in views.items():
                reference = sample.labels[entry].flatten()
                slabs = logits_in_slabs(sample.images[entry], rules, entry, runner.run_there)
                prediction = torch.cat([slab.argmax(dim=0) for slab in slabs])
                annotated = reference != IGNORED
                pairs = torch.where(annotated, reference, 0).long() * num_classes + prediction.flatten()
                confusions[names.index(name), view].scatter_add_(0, pairs, annotated.long())
    found = ranks.add(counts).cpu().numpy()
    if found[-1]:
        return None
    scored = reference_labels(dataset, spec, names)
    by_view: dict[int, list[Record]] = {}
    for name, of_case in zip(names, found[:-1].reshape(len(names), num_views, num_classes, num_classes), strict=True):
        for view in _views(spec, dataset.records[name].depth):
            record = case_record(of_case[view], spec.plan.label_names)
            by_view.setdefault(view, []).append({label: record[label] for label in scored})
    dice = {view: float(np.mean([foreground_mean(record) for record in by_view[view]])) for view in sorted(by_view)}
    result = {f"dice_depth{view}": value for view, value in dice.items() if view < num_depths}
    result["dice_mean"] = float(np.mean(list(result.values())))
    for label in scored:
        of_depths = [records for view, records in by_view.items() if view < num_depths]
        result[f"dice_{label}"] = float(np.mean([np.mean([record[label]["dice"] for record in records]) for records in of_depths]))
    if thick := [value for view, value in dice.items() if view >= num_depths]:
        result["dice_thick"] = float(np.mean(thick))
    return result


def epochs_between(dataset: PreparedDataset, spec: ModelSpec, cases: Sequence[str], held_out: Sequence[str]) -> int:
    """Return after how many epochs a validation takes at most a fifth of the time, by the voxels that pass the network.

    A training step passes them three times, since the backward pass costs twice the forward pass.
    """
    rules = rules_of(spec)

    def seen(name: str, entry: Entry) -> int:
        by = entry[0] - dataset.records[name].depth
        shape = coarsened(dataset.records[name].shape, (by, by, by))
        window = rules.entry(entry).window(shape)
        return num_windows(rules.entry(entry).padded(shape), window, rules.window) * math.prod(window)

    finest = {name: isotropic(min(dataset.records[name].depth, spec.network.num_depths - 1)) for name in (*cases, *held_out)}
    validated = sum(seen(name, finest[name]) for name in held_out)
    trained = 3 * sum(math.prod(rules.entry(finest[name]).window(dataset.records[name].shape)) for name in cases)
    return max(1, math.ceil(4 * validated / trained))


def _views(spec: ModelSpec, finest: int) -> dict[int, Entry]:
    """The entries at which a case is validated, by number: its depths, then those with thick slices."""
    depths = {depth: isotropic(depth) for depth in range(finest, spec.network.num_depths)}
    return depths | dict(enumerate(thick_entries(spec, finest), start=spec.network.num_depths))
