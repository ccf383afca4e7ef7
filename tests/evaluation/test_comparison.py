import json

import numpy as np
import pytest

from rarecli.core.errors import DataError
from rarecli.core.evaluation.comparison import compare, load_result, result_of
from rarecli.core.evaluation.summary import Score, summarise

NAMES = ("background", "a")


def summary(dice, protocol="native", column="depth"):
    """A summary with one class: {resolution: [Dice of case 0, 1, ...]}."""
    scored = [
        Score(
            f"case_{index:02d}",
            "routed",
            {"a": {"dice": value, "iou": 0.0, "precision": 0.0, "recall": 0.0, "n_ref": 1, "n_pred": 1}},
            None if column == "spacing_mm" else int(resolution),
            f"{resolution:g}" if column == "spacing_mm" else None,
        )
        for resolution, values in dice.items()
        for index, value in enumerate(values)
    ]
    return summarise(scored, NAMES, column) | ({"protocol": protocol} if protocol else {})


def results(one, other, tmp_path, **options):
    return [result_of(summary(dice, **options), tmp_path) for dice in (one, other)]


def test_differences_by_hand_and_intervals_as_of_the_normal_law(tmp_path):
    rng = np.random.default_rng(0)
    other = rng.uniform(0.5, 0.7, (2, 400))
    gain = rng.normal(0.02, 0.1, (2, 400))
    found = compare(*results(dict(enumerate(other + gain)), dict(enumerate(other)), tmp_path))
    assert [row["resolution"] for row in found["per_resolution"]] == ["0", "1"]
    for row, differences in zip([*found["per_resolution"], found["mean"]], [*gain, gain.mean(axis=0)], strict=True):
        assert row["difference"] == pytest.approx(differences.mean())
        half = 1.96 * differences.std(ddof=1) / np.sqrt(400)
        assert row["low"] == pytest.approx(differences.mean() - half, abs=0.08 * half)
        assert row["high"] == pytest.approx(differences.mean() + half, abs=0.08 * half)


def test_it_is_paired(tmp_path):
    """Cases differ by 0.5 among themselves, and every case is better by about 0.01: an unpaired test could not detect it."""
    other = np.linspace(0.3, 0.8, 30)
    found = compare(*results({0: other + 0.01 + 0.001 * np.sin(np.arange(30))}, {0: other}, tmp_path))
    assert 0.009 < found["mean"]["low"] < 0.01 < found["mean"]["high"] < 0.011


def test_a_result_against_itself_and_the_same_twice(tmp_path):
    dice = {0: [0.1, 0.5, 0.9], 1: [0.2, 0.3, 0.4]}
    same = compare(*results(dice, dice, tmp_path))
    assert [(row["difference"], row["low"], row["high"]) for row in same["per_resolution"]] == [(0, 0, 0)] * 2
    other = {0: [0.2, 0.4, 0.7], 1: [0.2, 0.3, 0.5]}
    assert compare(*results(dice, other, tmp_path)) == compare(*results(dice, other, tmp_path))


def test_one_case_has_no_interval(tmp_path):
    found = compare(*results({0: [0.5]}, {0: [0.25]}, tmp_path))
    assert (found["mean"]["difference"], found["mean"]["low"], found["mean"]["high"]) == (0.25, None, None)


def test_spacings_have_their_unit(tmp_path):
    found = compare(*results({1.4: [0.5, 0.6]}, {1.4: [0.5, 0.5]}, tmp_path, column="spacing_mm"))
    assert [row["resolution"] for row in found["per_resolution"]] == ["1.4 mm"]


def test_files_that_were_scored_are_compared_whatever_depth_they_came_from(tmp_path):
    one, other = summary({0: [0.5], 1: [0.6]}, protocol=None), summary({2: [0.5], 3: [0.7]}, protocol=None)
    for content in (one, other):
        for index, item in enumerate(content["metric_per_case"]):
            item["case"] = f"case_{index}"
    found = compare(result_of(one, tmp_path), result_of(other, tmp_path))
    assert found["num_cases"] == 2
    assert [row["difference"] for row in found["per_resolution"]] == [pytest.approx(-0.05)]


@pytest.mark.parametrize(
    ("other", "options", "words"),
    [
        ({0: [0.5, 0.5], 1: [0.5, 0.5]}, {}, ["different cases", "only here: case_02"]),
        ({0: [0.5] * 4, 1: [0.5] * 4}, {}, ["different cases", "only there: case_03"]),
        ({0: [0.5] * 3, 2: [0.5] * 3}, {}, ["different resolutions", "only there: 2", "only here: 1"]),
        ({0.8: [0.5] * 3}, {"column": "spacing_mm"}, ["different resolutions", "only there: 0.8 mm"]),
        ({0: [0.5] * 3, 1: [0.5] * 3}, {"protocol": "paper"}, ["different protocols", "only there: paper; only here: native"]),
    ],
)
def test_what_cannot_be_compared_is_named(other, options, words, tmp_path):
    with pytest.raises(DataError) as caught:
        compare(result_of(summary({0: [0.5] * 3, 1: [0.5] * 3}), tmp_path), result_of(summary(other, **options), tmp_path))
    for word in words:
        assert word in str(caught.value)


def test_a_result_is_its_folder_or_its_file(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary({0: [0.25, 0.5]})))
    for path in (tmp_path, tmp_path / "summary.json"):
        assert load_result(path).dice == {"0": {"case_00": 0.25, "case_01": 0.5}}


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"metric_per_case": [1], "mean": {}}', '{"metric_per_case": [{"method": "routed"}]}', "{"]
)
def test_anything_else_is_no_result(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(DataError, match=r"not a result|not valid JSON"):
        load_result(tmp_path)
    with pytest.raises(DataError, match="missing"):
        load_result(tmp_path / "nothing.json")
