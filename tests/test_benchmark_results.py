"""A result of benchmarks/ was made by its recipe as it is: whoever trains the recipe today gets the settings that the result names."""

import json
import sys
from pathlib import Path

import pytest

from rarecli.core.config.train_config import TrainConfig, load_train_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("accuracy_*.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_has_the_settings_of_its_recipe(file, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from hippocampus import RECIPES

    result = json.loads(file.read_text(encoding="utf-8"))
    recipe = RECIPES[result["recipe"]]
    # a setting that an old result lacks came later, and its default is what there was before
    made_with = TrainConfig.model_validate(result["config"])
    without_effect = ["name", "fold", "validate_every"]
    if made_with.arch != "rare-unet":  # one entry: no coarse views
        without_effect += ["coarse_views", "coarse_strength"]
    same = {name: getattr(made_with, name) for name in without_effect}
    assert load_train_config(recipe.preset, overrides=dict(recipe.overrides) | same) == made_with
