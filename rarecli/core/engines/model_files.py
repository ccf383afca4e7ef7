"""Finds the model of a MODEL argument: a run, a weights file inside a run, a bundle, or a built-in model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from rarecli.core.config.calibration import Calibration, load_calibration
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import RUN, WEIGHTS, load_run_spec
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import MANIFEST
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.imaging.scan_rules import ScanRules, rules_of
from rarecli.core.jobs.files import sha256
from rarecli.core.jobs.journal import key_of
from rarecli.core.suggestions import did_you_mean

OTHER_CALIBRATION = "calibration.json is of other weights and is not used"
RECALIBRATE = "rare calibrate DATASET -m RUN --overwrite"


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk. `bundle` is None for a run."""

    spec: ModelSpec
    folder: Path
    bundle: Bundle | None
    _weights: Path | None

    @property
    def rules(self) -> ScanRules:
        """How a scan becomes labels: as the manifest states it, or as a run's spec implies it."""
        return self.bundle.manifest.rules if self.bundle else rules_of(self.spec)

    @property
    def weights(self) -> Path:
        """The weights file for PyTorch. Raises UsageError for a bundle with its weights inside the graphs."""
        if self.bundle and self.bundle.manifest.weights:
            return self.bundle.file(self.bundle.manifest.weights)
        if self._weights is None:
            raise UsageError("a self-contained bundle has no weights for PyTorch", path=self.folder, remedy="use the run it was made from")
        return self._weights

    @property
    def digest(self) -> str:
        """A hash of everything that determines the model's output. Raises ModelError if a file is missing."""
        if self.bundle:
            return key_of([self.folder / MANIFEST])  # the manifest holds the hashes of the other files
        if not self.weights.is_file():
            raise ModelError("the weights are missing", path=self.weights, remedy="train first, or choose another model")
        return key_of([self.weights], self.spec.model_dump(mode="json"))

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of these weights; None without one, and if it is of other weights. Raises ModelError if it is broken."""
        return None if self.has_other_calibration else self._calibration

    @property
    def has_other_calibration(self) -> bool:
        """Whether the calibration in the folder is of other weights: the run was trained on, or this is its `best.safetensors`."""
        known = self._calibration
        if known is None or known.weights_sha256 is None or self.bundle:
            return False
        return not self.weights.is_file() or sha256(self.weights) != known.weights_sha256

    @cached_property
    def _calibration(self) -> Calibration | None:
        return load_calibration(self.folder)


def built_in_models() -> dict[str, Path]:
    """Return the folders of the built-in models, by name. Each is a bundle."""
    root = Path(str(resources.files("rarecli"))) / "models"
    return {folder.name: folder for folder in sorted(root.glob("*/")) if (folder / MANIFEST).is_file()}


def find_model(model: Path) -> ModelFiles:
    """Find a model by path, or by name if the path does not exist. Raises ModelError if it is not a model, or broken."""
    path = model if model.exists() else built_in_models().get(str(model), model)
    if (path / RUN).is_file():
        return ModelFiles(load_run_spec(path), path, None, path / WEIGHTS)
    if (path / MANIFEST).is_file():
        bundle = Bundle(path)
        return ModelFiles(bundle.manifest.spec, path, bundle, None)
    if path.suffix == ".safetensors" and (path.parent / RUN).is_file():
        return ModelFiles(load_run_spec(path.parent), path.parent, None, path)
    if path.is_file():
        found = "a file"
        remedy = f"give the folder: {path.parent}" if any((path.parent / name).is_file() for name in (RUN, MANIFEST)) else None
    else:
        found = f"neither {RUN} nor {MANIFEST}" if path.exists() else "no such file or folder"
        remedy = None if path.exists() else did_you_mean(str(path), built_in_models())
    expected = ", ".join(["a run, a bundle, a weights file inside a run", *built_in_models()])
    raise ModelError("not a model", path=path, found=found, expected=expected, remedy=remedy)
