"""The built-in models as `rare models` lists them, and the routing as a picture."""

from pathlib import Path

import pytest
from phantom_spec import SPEC

from rarecli.core.config.geometry import isotropic
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import UsageError
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.info.built_in import models
from rarecli.core.info.info import info
from rarecli.core.info.routing_picture import routing_picture


def test_the_list_has_what_the_cards_say():
    found = {model.name: model for model in models()}
    assert sorted(found) == ["hippocampus", "hippocampus-paper"]
    for name, model in found.items():
        card = model.card.read_text(encoding="utf-8")
        assert model.labels == ("Anterior", "Posterior")
        assert model.spacing == "1 to 8 mm"
        assert f"| {model.dice['mean']:.4f} |" in card.split("| routed |")[1].splitlines()[0]
        assert list(model.dice) == ["full", "1/2", "1/4", "1/8", "mean"]
        assert model.about.removesuffix(".").split()[0] in card
        assert model.num_bytes == sum(path.stat().st_size for path in Path(model.card).parent.rglob("*") if path.is_file()), name
    assert found["hippocampus-paper"].protocol == "paper"
    assert found["hippocampus-paper"].about.endswith("trained on the targets of arXiv 2507.15524.")


def test_the_picture_shows_where_the_depth_changes():
    """sqrt(2) mm and its doubles, for a model of 1 mm."""
    assert routing_picture(find_model(Path("hippocampus-paper")).rules) == [
        "  mm     depth, and the levels that run",
        "       │  0  ■──■──■──■──■  grid 1 mm",
        "1.41 ──┤",
        "       │  1     ■──■──■──■  grid 2 mm",
        "2.83 ──┤",
        "       │  2        ■──■──■  grid 4 mm",
        "5.66 ──┤",
        "       │  3           ■──■  grid 8 mm",
        "the finest axis decides, the others are resampled",
    ]
    assert routing_picture(find_model(Path("hippocampus")).rules)[-1] == "every axis so on its own: 1x1x4 mm enters at 0,0,2"


def test_the_picture_follows_the_entries_that_a_bundle_has():
    """Of depths 0 and 3, wanted depth 1 is nearer to 0 and depth 2 to 3: the change is at 2 * sqrt(2) mm."""
    picture = routing_picture(rules_of(SPEC, [isotropic(0), isotropic(3)]))
    assert [line for line in picture if "┤" in line] == ["2.83 ──┤"]


def test_without_gateways_the_picture_shows_that_all_levels_run():
    shared = SPEC.model_copy(update={"network": SPEC.network.model_copy(update={"gateways": False})})
    levels = [line.count("■") for line in routing_picture(rules_of(shared)) if "grid" in line]
    assert levels == [SPEC.network.num_levels + 1] * SPEC.network.num_depths


def test_a_model_is_described_without_a_path_and_nothing_is_refused():
    assert info(None, Path("hippocampus"))["kind"] == "built-in model, a bundle"
    with pytest.raises(UsageError, match="rare models"):
        info(None)
