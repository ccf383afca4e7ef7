"""What held-out cases and training labels say about a model's predictions: calibration.json, beside run.json or manifest.json.

Decision: docs/decisions/0023-quality.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rarecli.core.config.base import Count, Frozen, Name, Share
from rarecli.core.config.loading import validate
from rarecli.core.errors import ModelError
from rarecli.core.jobs.files import read_json, write_json

CALIBRATION = "calibration.json"
Volume = Annotated[float, Field(ge=0, le=1e15)]


class LabelRange(Frozen):
    """What one label looks like in the references of the training cases."""

    volume_mm3: tuple[Volume, Volume]
    """Least and largest volume."""
    most_components: Count
    """The largest number of connected components."""


class Steps(Frozen):
    """What is done to the predicted parts of a label, in this order. Voxels that touch, if only at a corner, are one part."""

    min_volume_mm3: Volume = 0.0
    """Smaller parts become background."""
    largest: bool = False
    """All parts but the largest become background."""
    fill_holes: bool = False
    """Background that the label encloses becomes the label."""

    @property
    def num(self) -> int:
        """How many steps these are."""
        return bool(self.min_volume_mm3) + self.largest + self.fill_holes


class ChosenSteps(Frozen):
    """The steps that validation chose for a label, with its mean Dice over the held-out predictions."""

    steps: Steps
    dice_without: Share
    dice_with: Share


class Calibration(Frozen):
    """The content of calibration.json."""

    schema_version: Literal[1] = 1
    model: Name
    num_cases: Count
    """Held-out cases, each predicted at every depth."""
    least_confidence: Share
    """Of 95 % of these predictions the confidence is at least this."""
    spearman: float = Field(ge=-1, le=1)
    """Rank correlation of the expected and the true Dice of these predictions."""
    labels: dict[Name, LabelRange] = Field(max_length=256)
    """Of every label but the background, by name."""
    postprocessing: dict[Name, ChosenSteps] | None = Field(default=None, max_length=256)
    """Of the labels whose Dice it raises, by name; None if nothing was tried. Applied only if asked for."""
    weights_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """The hash of the calibrated weights file of a run, which a longer training replaces; None in a bundle, whose weights stay."""


def load_calibration(folder: Path) -> Calibration | None:
    """Return the calibration in the folder of a model, or None if it has none. Raises ModelError if it is broken."""
    path = folder / CALIBRATION
    return validate(Calibration, read_json(path, ModelError), "the calibration", ModelError, path=path) if path.is_file() else None


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write calibration.json."""
    write_json(folder / CALIBRATION, calibration.model_dump(mode="json"))
