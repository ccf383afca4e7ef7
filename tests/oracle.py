"""A predictor with known answers, and a reporter that keeps all messages."""

import numpy as np
from phantom_spec import RULES, SPEC

from rarecli.core.config.geometry import entry_set
from rarecli.core.prediction.predictor import ModelChoice, Prediction


class Oracle:
    """A predictor with a known answer: the class `answer` everywhere."""

    rules, spec, key, choice = RULES, SPEC, "oracle", ModelChoice(())
    runner = type("Runner", (), {"backend": "none", "entries": entry_set("isotropic", 4)})

    def __init__(self, answer=0):
        self.answer, self.asked, self.routes = answer, [], set()

    def for_case(self, name):
        return self

    def predict(self, scan, entry=None, route=None):
        self.asked.append((scan, entry))
        self.routes.add(route)
        return Prediction(np.full(scan.shape, self.answer, dtype=np.uint8), scan.affine, entry or (0, 0, 0), "", (1, 1, 1), None, 0.0)


def listener(said):
    return type("Listener", (), {"warn": said.append, "say": said.append, "track": lambda self, items, label, total, costs=None: items})()
