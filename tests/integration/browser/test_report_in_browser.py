"""report.html as a reader uses it, in headless chromium, from file://."""

import json

import numpy as np
import pytest

from rarecli.core.evaluation.html_report import evaluation_page
from rarecli.core.evaluation.summary import Score, summarise
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render
from rarecli.core.reporting.viewer import View, ViewedCase, cropped, make_viewer

pytestmark = pytest.mark.slow
TABLE = "section:has(h2:text-is('Cases')) table"


@pytest.fixture
def opened(evaluated, open_page):
    opened = open_page(evaluated / "report.html")
    opened.page.wait_for_selector("#viewer[data-ready='0,0']")
    return opened


def pixels(page, plane):
    return page.evaluate("name => document.querySelector(`.plane[data-plane=${name}] canvas`).toDataURL()", plane)


def shown(page, plane):
    return page.inner_text(f".plane[data-plane={plane}] output")


def test_tables_sort_by_mouse_and_keyboard(opened, evaluated):
    summary, page = json.loads((evaluated / "summary.json").read_text()), opened.page
    dice = {}
    for score in summary["metric_per_case"]:
        if score["method"] == "routed" and score["depth"] == 1:
            dice[score["case"]] = np.mean([label["dice"] for label in score["metrics"].values()])

    def names():
        return page.eval_on_selector_all(f"{TABLE} tbody th", "cells => cells.map(cell => cell.textContent)")

    page.click(f"{TABLE} thead button:text-is('1/2')")
    assert names() == sorted(dice, key=lambda name: -dice[name])
    page.keyboard.press("Enter")  # the button has the focus
    assert names() == sorted(dice, key=dice.get)
    assert page.get_attribute(f"{TABLE} thead th:has(button:text-is('1/2'))", "aria-sort") == "ascending"
    page.click(f"{TABLE} thead button:text-is('case')")
    assert names() == sorted(dice)
    opened.require_quiet()


def test_the_viewer_moves_a_slice_by_keyboard_mouse_and_wheel(opened):
    page = opened.page
    before, words = pixels(page, "axial"), shown(page, "axial")
    page.focus(".plane[data-plane=axial] input")
    page.keyboard.press("ArrowRight")
    assert shown(page, "axial") != words
    assert pixels(page, "axial") != before
    page.keyboard.press("ArrowLeft")
    assert shown(page, "axial") == words
    assert pixels(page, "axial") == before
    stage = page.locator(".plane[data-plane=axial] canvas")
    stage.scroll_into_view_if_needed()
    coronal = shown(page, "coronal")
    box = stage.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.1)
    assert shown(page, "coronal") != coronal
    assert shown(page, "axial") == words
    page.mouse.wheel(0, 100)
    page.wait_for_function("words => document.querySelector('.plane[data-plane=axial] output').textContent !== words", arg=words)
    opened.require_quiet()


def test_overlays_window_and_resolutions_can_be_switched(opened):
    page = opened.page
    seen = {pixels(page, "coronal")}
    for name in ("reference", "prediction", "difference"):
        page.click(f"#v-{name}")
        seen.add(pixels(page, "coronal"))
    assert len(seen) == 4
    page.focus("#v-width")
    page.keyboard.press("r")
    assert page.is_checked("#v-reference")
    page.keyboard.press("PageUp")
    assert pixels(page, "coronal") not in seen
    millimetres = float(shown(page, "axial").split()[-2])
    page.keyboard.press("]")
    page.wait_for_selector("#viewer[data-ready='0,1']")
    assert "1/2" in page.inner_text("#v-facts")
    assert abs(float(shown(page, "axial").split()[-2]) - millimetres) <= 2  # the same place on coarser voxels
    page.select_option("#v-case", "1")
    page.wait_for_selector("#viewer[data-ready='1,1']")
    assert "reference" in page.inner_text("#v-here")
    opened.require_quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_screen(evaluated, open_page, width, scheme):
    opened = open_page(evaluated / "report.html", viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.page.wait_for_selector("#viewer[data-ready]")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = opened.page.evaluate(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number))"
    )
    assert (sum(ink) > sum(paper)) == (scheme == "dark")
    opened.require_quiet()


def test_a_full_report_of_42_cases_is_ready_in_time_and_keeps_hostile_names_as_text(tmp_path, open_page):
    """Three viewed cases of 130 x 130 x 130 voxels of noise at four depths: as large as a report gets."""
    rng = np.random.default_rng(0)

    def record(dice):
        return {"head": dict.fromkeys(("dice", "iou", "precision", "recall"), dice) | {"n_ref": 1, "n_pred": 1}}

    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", *(f"case_{number:02d}" for number in range(40))]
    scored = [Score(name, "routed", record(rng.random()), depth, None, [depth] * 3) for name in names for depth in range(4)]
    views = []
    for depth in range(4):
        image = rng.integers(0, 256, [size >> depth for size in (130, 130, 130)], dtype=np.uint8)
        labels = (image == 255).astype(np.uint8)
        views.append(View(str(depth), image, labels, labels, (2.0**depth,) * 3))
    viewer = make_viewer([cropped(ViewedCase(name, "worst", views)) for name in names[:3]], ["background", "<b>head</b>"])
    summary = summarise(scored, ["background", "head"]) | {
        "model": "M",
        "protocol": "native",
        "route": "finest",
        "backend": "onnx",
        "failed": {},
    }
    path = tmp_path / "report.html"
    path.write_text(render(evaluation_page(summary, ReportOptions(), viewer=viewer)), encoding="utf-8")
    assert 9e6 < path.stat().st_size <= 15e6
    opened = open_page(path)
    opened.page.wait_for_selector("#viewer[data-ready]")
    assert opened.page.locator("main img").count() == 0
    assert opened.page.inner_text("#v-legend li") == "<b>head</b>"
    opened.require_quiet()
