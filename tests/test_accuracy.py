"""The published accuracy equals the result files."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_tables_and_cards_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import hippocampus

    for path, text in hippocampus.documents().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python benchmarks/hippocampus.py table"
    assert len(hippocampus.documents()) == 3
    sys.modules.pop("hippocampus")
