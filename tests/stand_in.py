"""A model without a network: its labels name the octant of the scan, so that a swapped or flipped axis changes them."""

from types import SimpleNamespace

import numpy as np

from rarecli.core.benchmarking.suites import load_suite, random_spec
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.prediction.predictor import ModelChoice, Prediction

NAMES = ("background", *(f"octant {number}" for number in range(1, 9)))


class Octants:
    """Answers like a `Predictor`: 1, plus 1 in the right half, 2 in the anterior half, 4 in the superior half; 0 where the scan is low."""

    key = "octants"
    calibration = None

    def __init__(self, lowest=-np.inf):
        spec = random_spec(load_suite("smoke"))
        network = spec.network.model_copy(update={"in_channels": 1})
        plan = spec.plan.model_copy(update={"label_names": NAMES, "label_values": tuple(range(9)), "channel_names": ("image",)})
        self.spec = spec.model_copy(update={"name": "octants", "plan": plan, "network": network})
        self.runner = SimpleNamespace(backend="none", entries=self.spec.entries)
        self.rules = rules_of(self.spec)
        self.runners = [self.runner]
        self.choice = ModelChoice(())
        self.lowest = lowest

    def require_affordable(self, images, entry, route, series=None):
        """Accept every scan."""

    def segment(self, volume, choice, *, probabilities=False, **_):
        ras = to_ras(volume)
        halves = [np.arange(size) >= size / 2 for size in ras.shape]
        x, y, z = np.meshgrid(*halves, indexing="ij")
        labels = np.where(ras.data[0] >= self.lowest, 1 + x + 2 * y + 4 * z, 0)
        own = from_ras(labels, volume.affine)
        maps = np.stack([own == number for number in range(9)]).astype(np.float32) if probabilities else None
        return Prediction(own, volume.affine, (0, 0, 0), "stand-in", (1.0, 1.0, 1.0), maps, 0.0, confidence=(None,) * 8)


def octant_at(points, centre):
    """The labels of `Octants` at points in mm, RAS+, around the centre of the scan."""
    x, y, z = (np.asarray(points) > np.asarray(centre)).T
    return 1 + x + 2 * y + 4 * z
