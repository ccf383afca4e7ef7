import csv

import numpy as np
import pytest

from rarecli.core.evaluation.summary import Score, summarise, write_result

NAMES = ("background", "a", "b")


def values(dice, hd95_mm=None, surface_dice=0.5):
    return {
        "dice": dice,
        "iou": 0.1,
        "precision": 0.2,
        "recall": 0.3,
        "n_ref": 4,
        "n_pred": 5,
        "hd95_mm": hd95_mm,
        "surface_dice": surface_dice,
    }


def test_hd95_that_is_not_there_is_counted_and_never_averaged():
    scored = [
        Score("x", "routed", {"a": values(0.5, 2.0), "b": values(0.7, None, 0.0)}, 0),
        Score("y", "routed", {"a": values(0.9, 5.0), "b": values(0.3, None, 1.0)}, 0),
        Score("z", "routed", {"a": values(0.0, None), "b": values(0.0, None)}, 0),
    ]
    part = summarise(scored, NAMES)["per_depth"]["0"]
    assert part["mean"]["a"]["hd95_mm"] == 3.5
    assert part["mean"]["b"]["hd95_mm"] is None
    assert part["foreground_mean"]["hd95_mm"] == 3.5
    assert part["hd95_null"] == {"a": 1, "b": 3}
    assert part["mean"]["b"]["surface_dice"] == pytest.approx(0.5)


def test_the_fifth_percentile_is_of_the_cases_means():
    # 21 cases: the 5th percentile is the second lowest. Class b is better by 0.2 throughout.
    dice = np.random.default_rng(0).permutation(np.linspace(0.1, 0.5, 21))
    scored = [Score(str(index), "routed", {"a": values(value), "b": values(value + 0.2)}, 0) for index, value in enumerate(dice)]
    summary = summarise(scored, NAMES)
    assert summary["dice_p5"] == pytest.approx(0.12 + 0.1)
    assert summary["per_depth"]["0"]["dice_p5"] == pytest.approx(0.12 + 0.1)


def test_spacings_make_a_table_of_their_own_in_their_order(tmp_path):
    metrics = {"a": values(0.5), "b": values(0.7)}
    restored, ceiling = {"a": values(0.4), "b": values(0.4)}, {"a": values(0.8), "b": values(0.6)}
    scored = [
        Score("x", method, metrics, None, spacing, [1, 1, 1], restored, ceiling if method == "routed" else None)
        for spacing in ("10", "2.5", "1x1x4")
        for method in ("routed", "upsampled")
    ]
    summary = summarise(scored, NAMES, "spacing_mm")
    assert list(summary["per_spacing"]) == ["1x1x4", "2.5", "10"]
    assert "per_depth" not in summary
    assert summary["per_spacing"]["10"]["restored"]["dice"] == pytest.approx(0.4)
    assert summary["per_spacing"]["10"]["ceiling"]["dice"] == pytest.approx(0.7)
    assert "ceiling" not in summary["per_method"]["upsampled"]["10"]
    write_result(scored, summary, tmp_path)
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2
    assert [row["spacing_mm"] for row in rows[::4]] == ["10", "2.5", "1x1x4"]
    assert (rows[0]["restored_dice"], rows[0]["ceiling_dice"], rows[0]["hd95_mm"]) == ("0.4", "0.8", "")
    assert rows[2]["ceiling_dice"] == ""
