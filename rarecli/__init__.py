"""rare: 3D medical image segmentation whose cost follows the resolution of the scan.

`Predictor` segments scans that are in memory or in files. `preprocess`, `train`, `predict`, `evaluate`, `score`, `export`, `benchmark`,
`info` and `models` are the commands of the shell as functions. Every name is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarecli.api.functions import benchmark, evaluate, export, info, models, predict, preprocess, score, train
    from rarecli.core.data.phantoms import Phantom
    from rarecli.core.errors import RareError, SomeCasesFailed
    from rarecli.core.imaging.overlap import dice
    from rarecli.core.imaging.volume import Volume
    from rarecli.core.prediction.predictor import Prediction, Predictor

    __version__: str

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is imported; otherwise it sends telemetry

__all__ = [
    "Phantom",
    "Prediction",
    "Predictor",
    "RareError",
    "SomeCasesFailed",
    "Volume",
    "benchmark",
    "dice",
    "evaluate",
    "export",
    "info",
    "models",
    "predict",
    "preprocess",
    "score",
    "train",
]

_MODULES = {
    "Phantom": "core.data.phantoms",
    "Prediction": "core.prediction.predictor",
    "Predictor": "core.prediction.predictor",
    "RareError": "core.errors",
    "SomeCasesFailed": "core.errors",
    "Volume": "core.imaging.volume",
    "dice": "core.imaging.overlap",
}
"""Where the names are; those that are not here are in `rarecli.api.functions`."""


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that `import rarecli` loads nothing else."""
    if name == "__version__":
        from importlib.metadata import version  # imports the email package

        return version("rare-unet")
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"rarecli.{_MODULES.get(name, 'api.functions')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
