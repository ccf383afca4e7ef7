import pytest

from rarecli.core.benchmarking.analysis import compare, fitting, load_result
from rarecli.core.benchmarking.records import compare_methods, compare_with_paper
from rarecli.core.errors import DataError, UsageError


def record(backend="onnx", method="routed", depth=0, ms=10.0, **rest):
    """A row with 2 ms of preprocessing; the network takes the rest."""
    statistics = {stage: {"p50_ms": value, "p95_ms": 1.5 * value} for stage, value in (("compute", ms - 2), ("end_to_end", ms))}
    facts = {"backend": backend, "precision": "fp32", "threads": None, "batch": 1, "method": method, "entry": [depth] * 3, "status": "ok"}
    return facts | {"statistics": statistics, "paper_timing": {"p50_ms": ms - 1}, "peak_memory_mb": 100.0, "stable": True} | rest


def test_ratios_to_an_earlier_result():
    now = [record(ms=12), record(depth=1, ms=6), record(depth=2, ms=42), record(depth=3), record("new")]
    before = [record(ms=12), record(depth=1, ms=4), record(depth=2, ms=12), record(depth=3, status="failed: why"), record("old")]
    result = compare(now, {"rows": before})
    # the network alone: 10 / 10, 4 / 2, 40 / 10
    assert [row["ratio"] for row in result["rows"]] == [1, 2, 4]
    assert result["median_ratio"] == 2
    assert [row["relative"] for row in result["rows"]] == [0.5, 1, 2]
    assert result["num_missing"] == 2


def test_a_result_of_nothing_in_common_has_no_ratios():
    assert compare([record()], {"rows": []}) == {"median_ratio": None, "rows": [], "num_missing": 1}


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(DataError):
        load_result(tmp_path / "none.json")
    (tmp_path / "old.json").write_text('{"schema_version": 1, "rows": []}')
    with pytest.raises(UsageError, match="not a comparable"):
        load_result(tmp_path / "old.json")


def test_what_fits_a_budget():
    rows = [
        record(depth=0, ms=20, dice=0.9),  # p95 is 30
        record(depth=1, ms=10, dice=0.85),
        record("openvino", depth=1, ms=8, dice=0.85, peak_memory_mb=300.0),
        record("torch", depth=1, ms=6, dice=0.85, peak_memory_mb=None),
        record(method="upsampled", depth=1, ms=1),
        record(depth=2, status="failed: why"),
    ]
    fast = fitting(rows, 15, None)
    assert [(row["backend"], row["entry"][0]) for row in fast] == [("torch", 1), ("openvino", 1), ("onnx", 1)]
    assert fast[0]["dice_cost"] == pytest.approx(0.05)
    assert [row["backend"] for row in fitting(rows, 15, 200)] == ["onnx"]
    assert [row["entry"][0] for row in fitting(rows, None, 200)] == [1, 0]
    assert fitting(rows, 1, None) == []
    assert fitting([record()], 99, None)[0]["dice_cost"] is None


def test_upsampling_over_routing():
    rows = [record(ms=22), record(depth=1, ms=7), record(depth=1, ms=42, method="upsampled"), record("torch", depth=1, method="upsampled")]
    (pair,) = compare_methods(rows)
    assert (pair["entry"][0], pair["end_to_end"], pair["compute"]) == (1, 6, 8)


def test_ratios_over_depth_0_stand_beside_the_papers():
    rows = [record(ms=21), record(depth=1, ms=6), record(depth=4, ms=2), record("torch", depth=1), record(depth=1, method="upsampled")]
    result = compare_with_paper(rows)
    assert [(row["entry"][0], row["ratio"], row["paper_ratio"]) for row in result] == [(0, 1, 1), (1, 0.25, 0.229), (4, 0.05, None)]
