import json

import numpy as np
import pytest
from html_pages import ReadPage, require_self_contained, unpack

from rarecli.core.evaluation import evaluate as room
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.html_report import evaluation_page, worst_first
from rarecli.core.evaluation.summary import Score, summarise
from rarecli.core.evaluation.viewed_cases import choose_viewed
from rarecli.core.jobs.progress import Noting, Silent
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render
from rarecli.core.reporting.viewer import View, ViewedCase, cropped, make_viewer

FACTS = {"model": "Phantoms", "protocol": "native", "route": "finest", "backend": "onnx", "failed": {}}


def metrics(head, tail):
    return {
        name: dict.fromkeys(("dice", "iou", "precision", "recall"), dice) | {"n_ref": 4, "n_pred": 5}
        for name, dice in (("head", head), ("tail", tail))
    }


def summary_of(scored, column="depth", **more):
    return summarise(scored, ["background", "head", "tail"], column) | FACTS | more


@pytest.fixture
def summary():
    """Two cases at two depths. Means over the labels: 0.7 and 0.5 for case a, 0.9 and 0.8 for case b; upsampled 0.4 and 0.6."""
    return summary_of(
        [
            Score("a", "routed", metrics(0.8, 0.6), 0, None, [0, 0, 0], metrics(0.8, 0.6), metrics(1, 1)),
            Score("a", "routed", metrics(0.6, 0.4), 1, None, [1, 1, 1], metrics(0.5, 0.3), metrics(0.9, 0.9)),
            Score("a", "upsampled", metrics(0.5, 0.3), 1, None, [0, 0, 0], metrics(0.4, 0.2)),
            Score("b", "routed", metrics(1.0, 0.8), 0, None, [0, 0, 0], metrics(1.0, 0.8), metrics(1, 1)),
            Score("b", "routed", metrics(0.9, 0.7), 1, None, [0, 0, 1], metrics(0.9, 0.7), metrics(0.9, 0.9)),
            Score("b", "upsampled", metrics(0.7, 0.5), 1, None, [0, 0, 0], metrics(0.6, 0.4)),
        ]
    )


def read(summary, **options):
    page = ReadPage(render(evaluation_page(summary, ReportOptions("rare evaluate data -m run"), **options)))
    require_self_contained(page)
    return page


def column(page, caption, name):
    columns, rows = page.tables[caption]
    return [row[columns.index(name)] for row in rows]


def test_the_scores_are_those_of_the_summary(summary):
    page, caption = read(summary), "Scores by method and resolution"
    assert [cell for cell, _ in column(page, caption, "method")] == ["routed", "routed", "upsampled"]
    assert [cell for cell, _ in column(page, caption, "resolution")] == ["full", "1/2", "1/2"]
    assert [cell for cell, _ in column(page, caption, "Dice")] == ["0.8000", "0.6500", "0.5000"]
    assert [float(key) for _, key in column(page, caption, "std")] == pytest.approx([0.1, 0.15, 0.1])
    assert [cell for cell, _ in column(page, caption, "head")] == ["0.9000", "0.7500", "0.6000"]
    assert [cell for cell, _ in column(page, caption, "restored")] == ["0.8000", "0.6000", "0.4000"]
    assert [cell for cell, _ in column(page, caption, "ceiling")] == ["1.0000", "0.9000", ""]
    for method, key, place in (("routed", "0", 0), ("routed", "1", 1), ("upsampled", "1", 2)):
        for name, value in (("Dice", "dice"), ("5th pct.", "dice_p5")):
            assert float(column(page, caption, name)[place][1]) == summary["per_method"][method][key][value]
    assert "HD95 (mm)" not in page.tables[caption][0]  # it was not computed
    assert page.texts["dd"][:3] == ["2", f"{(0.7 + 0.5 + 0.9 + 0.8) / 4:.4f}", f"{summary['dice_p5']:.4f}"]
    assert page.texts["pre"] == ["rare evaluate data -m run"]


def test_the_worst_case_comes_first_and_every_entry_is_told(summary):
    page = read(summary)
    columns, rows = page.tables["Dice of each case, routed"]
    assert columns == ["case", "mean", "full", "1/2"]
    assert [[cell for cell, _ in row] for row in rows] == [["a", "0.6000", "0.7000", "0.5000"], ["b", "0.8500", "0.9000", "0.8000"]]
    assert [case.name for case in worst_first(summary)] == ["a", "b"]
    assert [[cell for cell, _ in row] for row in page.tables["Entry of each case at each resolution"][1]] == [
        ["a", "depth 0", "depth 1"],
        ["b", "depth 0", "entry 0,0,1"],
    ]
    assert any("The worst case is a with a mean Dice of 0.6000, the best b with 0.8500." in text for text in page.texts["desc"])


def test_failed_cases_warnings_and_a_comparison_are_shown(summary):
    row = {"dice": 0.8, "dice_against": 0.75, "difference": 0.05, "low": None, "high": 0.06}
    comparison = {"against": "old", "num_cases": 2, "confidence": 0.95, "per_resolution": [row | {"resolution": "1"}], "mean": row}
    summary |= {"failed": {"c": "not a NIfTI file"}, "comparison": comparison}
    page = read(summary, warnings=["label tail is odd"])
    assert page.tables["Cases that failed"][1] == [[("c", "c"), ("not a NIfTI file",) * 2]]
    assert [cell for cell, _ in page.tables["Against old, 2 cases"][1][0]] == ["1/2", "0.8000", "0.7500", "+0.0500", "", "+0.0600"]
    assert "label tail is odd" in page.texts["li"]


def test_a_curve_and_thick_slices_are_drawn():
    scored = [
        Score("a", "routed", metrics(0.8, 0.6), None, spacing, entry, metrics(0.8, 0.6), metrics(1, 1))
        for spacing, entry in (("1", [0, 0, 0]), ("2", [1, 1, 1]), ("1x1x4", [0, 0, 2]))
    ]
    point = {"num_cases": 1, "acquired": {"routed": 0.7, "upsampled": None}, "restored": {"routed": 0.7, "upsampled": None, "ceiling": 1.0}}
    slices = {"spacing_mm": [1.0, 1.0, 4.0], "entry": [0, 0, 2], "num_cases": 1, "acquired": {"routed": 0.7, "upsampled": 0.5}}
    curve = [point | {"spacing_mm": spacing, "depth": depth} for spacing, depth in ((1.0, 0), (2.0, 1))]
    page = read(summary_of(scored, "spacing_mm", curve=curve, thick_slices=[slices]), thresholds_mm=(1.41,))
    assert page.texts["figcaption"][:5] == [
        "Dice at the scan's own resolution",
        "Dice restored to the full grid",
        "Thick slices: routed",
        "Thick slices: upsampled",
        "Thick slices: routed minus upsampled",
    ]
    assert {"0.70", "0.50", "+0.20"} <= set(page.texts["text"])
    assert page.source.count('class="border"') == 2
    assert page.tables["Dice of each case, routed"][0] == ["case", "mean", "1 mm", "1x1x4 mm", "2 mm"]  # by the volume of a voxel


def test_viewed_cases_go_from_the_worst_to_the_best():
    scored = [Score(f"{index:02d}", "routed", metrics(index / 10, index / 10), 0) for index in range(9)]
    summary = summary_of(scored)
    assert choose_viewed(summary, 3) == [("00", "worst"), ("04", "median"), ("08", "best")]
    assert choose_viewed(summary, 1) == [("00", "worst")]
    assert choose_viewed(summary, 0) == []
    assert choose_viewed(summary, 5)[1] == ("02", "3 of 9")
    assert len(choose_viewed(summary, 100)) == 9


def test_a_report_of_42_cases_has_at_most_15_mb():
    """Three cases of 240 x 240 x 155 voxels of noise, which does not compress, at four depths."""
    rng = np.random.default_rng(0)
    scored = [Score(f"case_{n:03d}", "routed", metrics(*rng.random(2)), depth, None, [depth] * 3) for n in range(42) for depth in range(4)]
    views = []
    for depth in range(4):
        image = rng.integers(0, 256, [size >> depth for size in (240, 240, 155)], dtype=np.uint8)
        labels = np.zeros(image.shape, np.uint8)
        labels[::20, ::20, ::20] = 1
        views.append(View(str(depth), image, labels, labels, (2.0**depth,) * 3))
    case = cropped(ViewedCase("case_000", "worst", views))
    text = render(evaluation_page(summary_of(scored), ReportOptions(), viewer=make_viewer([case] * 3, ["background", "head", "tail"])))
    assert 3e6 < len(text.encode()) <= 15e6


OPTIONS = {"names": ["phantom_001", "phantom_004"], "depths": [2, 3], "upsampled": False, "surface": False}


def test_the_viewed_volumes_have_the_dice_of_the_summary(phantom_dataset, run, tmp_path):
    options = EvaluateOptions(**OPTIONS, report=ReportOptions(num_cases=2))
    evaluate(phantom_dataset, ModelChoice((run,), "cpu"), tmp_path, options)
    page = ReadPage((tmp_path / "report.html").read_text())
    require_self_contained(page)
    assert str(tmp_path) not in page.source
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = {(score["case"], score["depth"]): score["metrics"] for score in summary["metric_per_case"]}
    assert {case["note"] for case in page.viewer["cases"]} == {"worst", "best"}
    for case in page.viewer["cases"]:
        for depth, view in zip((2, 3), case["views"], strict=True):
            _, reference, prediction = unpack(view)
            for value, name in enumerate(("head", "tail"), start=1):
                one, other = reference == value, prediction == value
                dice = 2 * (one & other).sum() / max(one.sum() + other.sum(), 1)
                assert dice == pytest.approx(expected[case["name"], depth][name]["dice"])
            assert view["spacing"] == [2.0**depth] * 3


def test_a_report_that_fails_loses_no_results(phantom_dataset, run, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(room, "evaluation_page", fails)
    noted = Noting(Silent())
    summary = evaluate(phantom_dataset, ModelChoice((run,), "cpu"), tmp_path, EvaluateOptions(**OPTIONS, report=ReportOptions()), noted)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert noted.warnings[-1] == "report.html is not written: MemoryError: no room; the results are complete"
    assert not (tmp_path / "report.html").exists()
