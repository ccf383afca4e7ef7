"""How far a prediction can be trusted, without a reference: the network's own confidence, its components and volumes, and its
agreement with the next coarser entry.

Decision: docs/decisions/0023-quality.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rarecli.core.config.calibration import Calibration
from rarecli.core.config.geometry import coarser_entry, entry_text
from rarecli.core.data.cases import class_indices
from rarecli.core.imaging.cropping import crop
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.overlap import dice
from rarecli.core.imaging.resampling import resample, resample_labels, resampled_affine
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.words import volume as millilitres
from rarecli.core.prediction.postprocessing import Parts
from rarecli.core.prediction.predictor import Prediction, Predictor
from rarecli.core.types import Entry, IntArray


@dataclass(frozen=True)
class Quality:
    """What is known of a prediction without its reference; values by label name.

    volumes_mm3: volume of each label. confidence: see `restore.confidence`; None for a label that was not found.
    components: number of its parts that touch nowhere, not even at a corner; None if they were not counted.
    against, agreement: the next coarser entry, and the Dice of its labels with the prediction's; None if it was not run.
    """

    volumes_mm3: dict[str, float]
    confidence: dict[str, float | None]
    components: dict[str, int] | None = None
    against: Entry | None = None
    agreement: dict[str, float] | None = None

    @property
    def mean_confidence(self) -> float | None:
        """The mean over the labels that were found, or None."""
        found = [value for value in self.confidence.values() if value is not None]
        return float(np.mean(found)) if found else None

    def doubts(self, calibration: Calibration | None, *, whole: bool = True) -> list[str]:
        """Return why the prediction may be wrong, as sentences; empty if nothing is unusual or the model has no calibration.

        whole: False for a region, which may cut a structure, so that its volume says nothing.
        """
        if calibration is None:
            return []
        found = []
        mean, least = self.mean_confidence, calibration.least_confidence
        if mean is not None and mean < least:
            found.append(f"its confidence is {mean:.3f}; of 95 % of the validation scans it is at least {least:.3f}")
        for name, usual in calibration.labels.items():
            low, high = usual.volume_mm3
            if whole and not low <= self.volumes_mm3[name] <= high:
                known = f"in the training scans it has {millilitres(low)} to {millilitres(high)}"
                found.append(f"its {name} has {millilitres(self.volumes_mm3[name])}; {known}")
            if self.components is not None and self.components[name] > usual.most_components:
                found.append(f"its {name} is in {self.components[name]} parts; in the training scans in at most {usual.most_components}")
        return found

    def record(self, calibration: Calibration | None, *, whole: bool = True) -> dict[str, Any]:
        """Return the facts that predictions.json holds beside the volumes, and the doubts. whole: see `doubts`."""
        facts = asdict(self)
        del facts["volumes_mm3"]
        return facts | {"against": self.against and list(self.against), "doubts": self.doubts(calibration, whole=whole)}


def assess(predictor: Predictor, volume: Volume, prediction: Prediction, *, thorough: bool) -> Quality:
    """Return the quality of the prediction of a scan. thorough: also count components and run the next coarser entry, if there is one."""
    plan = predictor.spec.plan
    voxel_mm3, names = float(np.prod(volume.spacing_mm)), plan.label_names[1:]
    masks = {name: prediction.labels == value for name, value in zip(names, plan.label_values[1:], strict=True)}
    against = coarser_entry(prediction.entry, predictor.runner.entries, 1) if thorough else None
    return Quality(
        {name: int(mask.sum()) * voxel_mm3 for name, mask in masks.items()},
        dict(zip(names, prediction.confidence, strict=True)),
        {name: num_components(mask) for name, mask in masks.items()} if thorough else None,
        against,
        against and _agreement(predictor, volume, prediction, against),
    )


def num_components(mask: IntArray) -> int:
    """Return how many connected components a mask (X, Y, Z) has; voxels that touch at a corner are connected."""
    return len(Parts(mask, 1))


def _agreement(predictor: Predictor, volume: Volume, prediction: Prediction, entry: Entry) -> dict[str, float]:
    """Return the Dice of every label between the prediction and that of the scan brought to another entry's grid, compared on that grid.

    Of a region, only voxels of which at least half lies inside are compared.
    """
    plan, rules = predictor.spec.plan, predictor.rules
    source, placement = crop(volume, plan.crop)

    def in_ras(labels: IntArray) -> IntArray:
        turned: IntArray = to_ras(Volume(labels[placement.box][None], source.affine)).data[0]
        return turned

    scan, own = to_ras(source), in_ras(prediction.labels)
    zoom = rules.route(scan.spacing_mm, RouteChoice(entry, predictor.runner.entries)).zoom
    image = resample(scan.data, zoom, rule=rules.resampling)
    coarse, choice = Volume(image, resampled_affine(scan.affine, scan.shape, zoom)), RouteChoice(entry, predictor.runner.entries)
    other = class_indices(predictor.segment(coarse, choice, flips=False).labels, plan.label_values)
    brought = resample_labels(class_indices(own, plan.label_values), zoom, plan.num_classes, other.shape)
    if prediction.region:
        inside = resample(in_ras(prediction.region.inside(volume.shape))[None], zoom, other.shape)[0]
        other, brought = (np.where(inside < 0.5, 0, labels) for labels in (other, brought))
    values = dice(other, brought, plan.num_classes)[1:]
    return dict(zip(plan.label_names[1:], values.tolist(), strict=True))


def quality_words(record: dict[str, Any], *, calibrated: bool) -> str:
    """Return the confidence and the agreement of a record, for the line of a case; empty for a prediction without labels.

    calibrated: whether the model is; if not, nobody knows which confidence is usual, and the line has none.
    """
    parts = []
    known = [value for value in record["confidence"].values() if value is not None]
    if calibrated and known:
        parts.append(f"; confidence {np.mean(known):.2f}")
    if record["agreement"]:
        x, y, z = record["against"]
        parts.append(f", agreement with {entry_text((x, y, z))} {np.mean(list(record['agreement'].values())):.2f}")
    return "".join(parts)
