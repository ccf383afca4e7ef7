import benchmark_records
import pytest
from html_pages import ReadPage, require_self_contained

from rarecli.core.benchmarking.html_report import benchmark_page
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render


@pytest.fixture
def result():
    return benchmark_records.result()


def read(result):
    page = ReadPage(render(benchmark_page(result, ReportOptions("rare benchmark bundle"))))
    require_self_contained(page)
    return page


def test_rows_ratios_and_figures_are_those_of_the_result(result):
    page = read(result)
    columns, rows = page.tables["Every row; times are medians"]
    assert "cold start (ms)" not in columns  # it was not measured
    cells = [dict(zip(columns, (cell for cell, _ in cells), strict=True)) for cells in rows]
    assert [cell["end to end (ms)"] for cell in cells] == ["8.00", "2.00", "9.00", ""]
    assert [cell["postprocess (ms)"] for cell in cells] == ["4.00", "1.00", "4.50", ""]
    assert [cell["Dice"] for cell in cells] == ["0.9000", "0.8000", "", ""]
    assert [cell["status"] for cell in cells] == ["ok", "ok, unstable", "ok, unstable", "skipped: no GPU"]
    assert [cell for cell, _ in page.tables["Upsampling over routing: how many times slower"][1][0]] == ["onnx", "1", "4.50", "4.25"]
    assert [cell for cell, _ in page.tables["1 rows within the limits, the fastest first"][1][0]][2:] == ["3.00", "100", "0.8000", "0.1000"]
    assert page.texts["figcaption"][:2] == ["Dice over latency", "Latency over resolution"]
    assert [(cell["of matmul"], cell["of peak"], cell["of roofline"]) for cell in cells] == [("50%", "40%", "80%")] * 3 + [("", "", "")]
    assert "onnx fp32, limit: 1/2, its layers allow 50.0 GFLOP/s" in page.texts["title"]
    tips = [text for text in page.texts["title"] if text.startswith("onnx fp32")]
    assert "onnx fp32: 1/2, 2.00 ms, Dice 0.8000" in tips
    assert "onnx fp32, upsampled: 1/2, 9.00 ms" in tips
    assert "The fastest row takes 2.00 ms from a scan in memory to its labels: onnx, routed, entry 1." in page.texts["p"]
    assert "the timer takes 0.1% of the shortest row" in page.texts["p"]


def test_without_dice_limits_and_measured_rows_the_page_still_stands(result):
    result |= {"rows": result["rows"][-1:], "fitting": [], "accuracy": [], "speed_up": [], "paper_timing": [], "peaks": []}
    page = read(result)
    assert "Nothing was measured." in page.texts["p"]
    assert "figcaption" not in page.texts
