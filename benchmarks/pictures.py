"""Draw every picture of the README and of docs/ anew (`make pictures`).

    python benchmarks/pictures.py [--without-demo]

Numbers come from benchmarks/results. Phantoms, their report and the page that segments come from `rare demo`, which trains for a minute;
Debian's chromium photographs the pages. `--without-demo` draws only what the results hold.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accuracy_tables
import slice_tables
from playwright.sync_api import Page, sync_playwright
from recipes import RESULTS

from rarecli.core.benchmarking.figures import draw_cost, draw_latency
from rarecli.core.demo import demo
from rarecli.core.engines.segment_page import write_segment_page
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.figures import draw_dice_over_resolution, draw_dice_over_spacing
from rarecli.core.imaging.routing import thresholds_mm
from rarecli.core.prediction.options import PredictOptions
from rarecli.core.prediction.predict import predict
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.reporting.options import ReportOptions

DOCS = Path(__file__).parents[1] / "docs"
NUM_DEPTHS = 4
REPORTED = "rare evaluate test -m run -o scores"
"""The command that the photographed report names."""
FOLD = 1
"""Of the recipe `hippocampus`: its second fold."""


def draw_accuracy() -> None:
    """Draw Dice over resolution, spacing and slice spacing of the recipe `hippocampus`."""
    result = accuracy_tables.read_results("hippocampus")[FOLD]
    summary = {"model": result["recipe"], "protocol": result["protocol"], "per_method": result["per_method"]}
    summary |= {"per_depth": result["per_method"]["routed"], "curve": result["curve"]["points"]}
    draw_dice_over_resolution(summary, DOCS / "dice_over_resolution.png")
    draw_dice_over_spacing(summary, thresholds_mm((1.0, 1.0, 1.0), NUM_DEPTHS), DOCS / "dice_over_spacing.png")
    own, before = (accuracy_tables.read_results(name) for name in (accuracy_tables.THICK, accuracy_tables.BEFORE))
    slice_tables.draw(own, before, _newest("hippocampus-slices"), DOCS / "thick_slices.png")


def draw_timing() -> None:
    """Draw latency and cost over resolution."""
    for suite in ("brain-tumour", "hippocampus"):
        draw_latency(_rows(suite), DOCS / f"latency_{suite.replace('-', '_')}.png")
    draw_cost(_rows("brain-tumour"), DOCS / "cost_brain_tumour.png")


def draw_demo() -> None:
    """Draw the phantoms of the demo, and photograph the slices of its report and its page that segments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "demo"
        demo(output)
        shutil.copy(min((output / "evaluation").glob("slices_*.png")), DOCS / "slices_phantom.png")
        test = output / "test" / "1mm"
        scan = min((test / "imagesTr").iterdir())
        predict([scan], ModelChoice((output / "run",)), output / "phantom.nii.gz", PredictOptions(picture=True))
        shutil.copy(output / "phantom.png", DOCS / "picture_phantom.png")
        evaluate(test, ModelChoice((output / "run",)), output / "report", EvaluateOptions(surface=False, report=ReportOptions(REPORTED)))
        write_segment_page(output / "run", output / "segment.html")
        with _chromium() as page:
            page.goto((output / "report" / "report.html").as_uri())
            page.wait_for_selector("#viewer[data-ready='0,0']")
            page.locator("section:has(#viewer)").screenshot(path=DOCS / "report_phantom.png")
            page.goto((output / "segment.html").as_uri())
            page.set_input_files("#files", scan)
            page.wait_for_selector("body[data-state=ready]")
            page.screenshot(path=DOCS / "segment_page.png")


@contextmanager
def _chromium() -> Iterator[Page]:
    with sync_playwright() as playwright:
        # chromium refuses its sandbox to root; the pages are ours
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.set_default_timeout(240_000)
        yield page
        browser.close()


def _rows(suite: str) -> list[dict[str, Any]]:
    """Return the rows of the newest result of a suite."""
    rows: list[dict[str, Any]] = json.loads(_newest(suite).read_text(encoding="utf-8"))["rows"]
    return rows


def _newest(suite: str) -> Path:
    # the names end with the year and the month
    return max(RESULTS.glob(f"{suite}_*-cores_*.json"), key=lambda path: path.stem[-6:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-demo", action="store_true")
    draw_accuracy()
    draw_timing()
    if not parser.parse_args().without_demo:
        draw_demo()


if __name__ == "__main__":
    main()
