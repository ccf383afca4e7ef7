"""How long an export will take, said before it starts."""

from itertools import count

import numpy as np
import pytest

from rarecli.core.benchmarking.suites import load_suite, random_spec
from rarecli.core.config.geometry import entry_set
from rarecli.core.engines import export, parity


@pytest.fixture(scope="module")
def spec():
    return random_spec(load_suite("smoke"))


class Reference:
    """A runner whose logits are ones."""

    def __init__(self, num_classes):
        self.num_classes = num_classes

    def run(self, image, entry):
        return np.ones((1, self.num_classes, *image.shape[2:]), dtype=np.float32)


class Said(list):
    def say(self, text):
        self.append(text)


def test_the_forecast_counts_images_networks_and_comparisons(spec, monkeypatch):
    ticks = count()
    monkeypatch.setattr(parity.time, "perf_counter", lambda: float(next(ticks)))  # making, running and comparing a patch take 1 s each
    found = parity.expected_seconds(spec, [(1, 1, 1), (0, 0, 1)], Reference(spec.plan.num_classes), 2)
    # one image, three networks and two comparisons per patch; six patches, or three of an entry with thick slices, and the large image
    for entry, num_small in (((1, 1, 1), 6), ((0, 0, 1), 3)):
        patches = np.prod(parity.large_shape(spec, entry)) / np.prod(spec.patch_shape(entry))
        assert found[entry] == pytest.approx((1 + 3 + 2) * (num_small + patches))


@pytest.mark.parametrize(
    ("chosen", "seconds_each", "words"),
    [
        ("thick", 60, "about 5 min, longer on a busy machine; --entries isotropic writes 2 of the 5 engines, compared in 2 min"),
        ("thick", 10, "about 50 s, longer on a busy machine"),
        ("isotropic", 60, "about 2 min, longer on a busy machine"),
    ],
)
def test_a_long_export_names_the_entries_that_take_less(spec, monkeypatch, chosen, seconds_each, words):
    monkeypatch.setattr(export, "expected_seconds", lambda spec, entries, *others: dict.fromkeys(entries, seconds_each))
    said = Said()
    export.forecast(spec, entry_set(chosen, spec.network.num_depths), None, said)
    assert said == [f"the comparison with PyTorch will take {words}"]
