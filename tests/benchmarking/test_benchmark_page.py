import pytest
from html_pages import ReadPage, require_self_contained

from rarecli.core.benchmarking.html_report import benchmark_page
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render


def row(depth, milliseconds, method="routed", **more):
    times = {stage: {"p50_ms": milliseconds / 4} for stage in ("preprocess", "compute", "argmax", "postprocess")}
    facts = {"backend": "onnx", "precision": "fp32", "threads": None, "batch": 1, "method": method, "entry": [depth] * 3}
    facts |= {"shape": [32 >> depth] * 3, "status": "ok", "stable": depth != 1, "cold_start_ms": None, "peak_memory_mb": 100.0}
    work = {"gflop_per_s": 40.0 - depth, "flop_per_byte": 20.0 - depth, "share_of_matmul": 0.5}
    work |= {"share_of_peak": 0.4, "share_of_roofline": 0.8, "roofline_gflop_per_s": 50.0}
    end_to_end = {"p50_ms": milliseconds, "p95_ms": milliseconds + 1}
    return facts | {"statistics": times | {"end_to_end": end_to_end}, "work": work} | more


@pytest.fixture
def result():
    rows = [row(0, 8.0, dice=0.9), row(1, 2.0, dice=0.8), row(1, 9.0, "upsampled")]
    skipped = dict.fromkeys(("precision", "threads", "batch", "method", "entry", "shape")) | {"precision": "fp32"}
    rows.append(skipped | {"backend": "tensorrt", "status": "skipped: no GPU"})
    key = {"backend": "onnx", "precision": "fp32", "threads": None, "batch": 1, "entry": [1, 1, 1]}
    return {
        "model": {"name": "Phantoms", "random_weights": False},
        "machine": {"cpu": "A CPU", "num_cores": 2, "python": "3.11", "versions": {"numpy": "2"}},
        "peaks": [{"threads": None, "on_gpu": False, "fp32": 50.0, "bf16": None, "copy": 10.0}],
        "notes": ["the timer takes 0.1% of the shortest row"],
        "rows": rows,
        "speed_up": [key | {"compute": 4.5, "end_to_end": 4.25}],
        "paper_timing": [key | {"p50_ms": 2.0, "ratio": 0.25, "paper_ratio": None}],
        "against": None,
        "fitting": [key | {"p95_ms": 3.0, "peak_memory_mb": 100.0, "dice": 0.8, "dice_cost": 0.1}],
        "accuracy": [{"precision": "fp32", "status": "ok", "backend": "onnx", "dice": {"0": 0.9, "1": 0.8}}],
    }


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
