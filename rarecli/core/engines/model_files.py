"""What a MODEL argument names: a run, a weights file inside one, a bundle, or a model that comes with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import RUN, WEIGHTS, load_run_spec
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import MANIFEST
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.imaging.scan_rules import ScanRules, rules_of
from rarecli.core.jobs.journal import key_of


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
        """The weights as PyTorch loads them. Raises UsageError for a bundle that keeps them inside its graphs."""
        if self.bundle and self.bundle.manifest.weights:
            return self.bundle.file(self.bundle.manifest.weights)
        if self._weights is None:
            raise UsageError("a self-contained bundle has no weights for PyTorch", path=self.folder, remedy="use the run it was made from")
        return self._weights

    @property
    def digest(self) -> str:
        """A hash of all that decides what the model answers. Raises ModelError where a file is missing."""
        if self.bundle:
            return key_of([self.folder / MANIFEST])  # which holds the hashes of the other files
        if not self.weights.is_file():
            raise ModelError("the weights are missing", path=self.weights, remedy="train first, or choose another model")
        return key_of([self.weights], self.spec.model_dump(mode="json"))


def built_in_models() -> dict[str, Path]:
    """Folders of the models that come with the package, by name. Each is a bundle."""
    root = Path(str(resources.files("rarecli"))) / "models"
    return {folder.name: folder for folder in sorted(root.glob("*/")) if (folder / MANIFEST).is_file()}


def find_model(model: Path) -> ModelFiles:
    """Find a model by path, or by name if there is no such path. Raises ModelError for what is none or broken."""
    path = model if model.exists() else built_in_models().get(str(model), model)
    if (path / RUN).is_file():
        return ModelFiles(load_run_spec(path), path, None, path / WEIGHTS)
    if (path / MANIFEST).is_file():
        bundle = Bundle(path)
        return ModelFiles(bundle.manifest.spec, path, bundle, None)
    if path.suffix == ".safetensors" and (path.parent / RUN).is_file():
        return ModelFiles(load_run_spec(path.parent), path.parent, None, path)
    raise ModelError(
        "this is no model",
        path=path,
        found="no such file or folder" if not path.exists() else f"neither {RUN} nor {MANIFEST}",
        expected=", ".join(["a run, a bundle, a weights file inside a run", *built_in_models()]),
    )
