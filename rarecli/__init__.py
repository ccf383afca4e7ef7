"""rare: 3D medical image segmentation whose cost follows the resolution of the scan."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarecli.core.data.phantoms import Phantom
    from rarecli.core.imaging.overlap import dice
    from rarecli.core.imaging.volume import Volume
    from rarecli.core.prediction.predictor import Prediction, Predictor

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is imported; otherwise it sends telemetry

__all__ = ["Phantom", "Prediction", "Predictor", "Volume", "dice"]

_ROOMS = {
    "Phantom": "data.phantoms",
    "Prediction": "prediction.predictor",
    "Predictor": "prediction.predictor",
    "Volume": "imaging.volume",
    "dice": "imaging.overlap",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that `import rarecli` loads nothing else."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"rarecli.core.{_ROOMS[name]}"), name)
