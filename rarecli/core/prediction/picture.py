"""`rare predict --picture`: a PNG of a case, three planes through its largest label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rarecli.core.config.geometry import entry_text, spacing_text
from rarecli.core.config.plan import Plan
from rarecli.core.imaging.orientation import seen_in_ras
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.words import volume as volume_text
from rarecli.core.prediction.predictor import Prediction
from rarecli.core.reporting.montage import Montage, draw_montage


def draw_prediction(path: Path, name: str, scan: Volume, found: Prediction, plan: Plan, volumes_mm3: Mapping[str, float]) -> None:
    """Draw the first channel of a scan with the labels that were found, and their volumes. name: of the case, for the title."""
    image, spacing_mm = seen_in_ras(scan.data[0], scan.affine)
    labels, _ = seen_in_ras(found.labels, scan.affine)
    title = f"{name}: {spacing_text(spacing_mm)} mm, {entry_text(found.entry)}"
    texts = [f"{label}: {volume_text(volumes_mm3[label])}" for label in plan.label_names[1:]]
    keys = list(zip(plan.label_values[1:], texts, strict=True))
    draw_montage(Montage(title, labels, keys, spacing_mm, image), path)
