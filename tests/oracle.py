"""A predictor with known answers, and a reporter that keeps all messages."""

import numpy as np
from phantom_spec import RULES, SPEC

from rarecli.core.prediction.predictor import ModelChoice, Prediction


class Oracle:
    """A predictor with a known answer: the class `answer` everywhere."""

    rules, spec, key, choice = RULES, SPEC, "oracle", ModelChoice(())
    runner = type("Runner", (), {"backend": "none", "depths": (0, 1, 2, 3)})

    def __init__(self, answer=0):
        self.answer, self.asked = answer, []

    def for_case(self, name):
        return self

    def predict(self, scan, depth=None):
        self.asked.append((scan, depth))
        return Prediction(np.full(scan.shape, self.answer, dtype=np.uint8), scan.affine, depth or 0, "", (1, 1, 1), None, 0.0)


def listener(said):
    return type("Listener", (), {"warn": said.append, "say": said.append, "track": lambda self, items, label, total: items})()
