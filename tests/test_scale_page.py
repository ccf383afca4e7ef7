"""docs/scale.md has the tables of the result files as they are."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scale_table(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import scale_table

    return scale_table


def test_the_page_has_the_tables_of_the_results(scale_table):
    _, _, rest = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition(scale_table.BEGIN)
    assert rest.partition(scale_table.END)[0].strip() == scale_table.tables().strip(), "run benchmarks/scale_table.py"


def test_a_thousand_scans_of_36_s_on_two_cores_take_20_core_hours(scale_table, monkeypatch):
    row = {"backend": "openvino", "precision": "fp32", "method": "routed", "batch": 1, "status": "ok", "shape": [1, 1, 1]}
    row |= {"entry": [0, 0, 0], "statistics": {"end_to_end": {"p50_ms": 36_000.0}}}
    monkeypatch.setattr(scale_table, "read", lambda name: {"machine": {"num_threads": 2}, "rows": [row, row | {"backend": "torch"}]})
    assert scale_table.core_hours("any") == {("fp32", "routed", 0): pytest.approx(20.0)}
