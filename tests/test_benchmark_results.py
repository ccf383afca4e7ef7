"""A result of benchmarks/ was made by its recipe as it is: whoever trains the recipe today gets the settings that the result names."""

import json
import sys
from pathlib import Path

import pytest

from rarecli.core.config.train_config import TrainConfig, load_train_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = sorted(path for name in ("accuracy", "brain_tumour") for path in (BENCHMARKS / "results").glob(f"{name}_*_fold*.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_has_the_settings_of_its_recipe(file, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import brain_tumour
    import hippocampus

    result = json.loads(file.read_text(encoding="utf-8"))
    recipe = (hippocampus.RECIPES | brain_tumour.RECIPES)[result["recipe"]]
    # a setting that an old result lacks came later, and its default is what there was before
    made_with = TrainConfig.model_validate(result["config"])
    without_effect = ["name", "fold", "num_folds", "validate_every"]
    if made_with.arch != "rare-unet":  # one entry: no gateways, no coarse views, no thick entries
        without_effect += ["coarse_views", "coarse_strength", "coarse_from", "wide_views", "thick_weight", "gateways"]
    same = {name: getattr(made_with, name) for name in without_effect}
    assert load_train_config(recipe.preset, overrides=dict(recipe.overrides) | same) == made_with


def shares(content):
    """Every share of the peak of the cores in a result."""
    if isinstance(content, dict):
        yield from (value for name, value in content.items() if name == "share_of_peak" and value is not None)
        content = list(content.values())
    for item in content if isinstance(content, list) else ():
        yield from shares(item)


def test_no_published_rate_exceeds_the_peak_of_the_cores():
    found = [share for file in (BENCHMARKS / "results").glob("*.json") for share in shares(json.loads(file.read_text(encoding="utf-8")))]
    assert found
    assert all(0 < share <= 1 for share in found)
