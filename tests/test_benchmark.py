import csv
import json

import pytest

from rarecli.core import benchmark as room
from rarecli.core.benchmark import benchmark
from rarecli.core.errors import SomeCasesFailed


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(room, "_SECONDS", 0.01)
    monkeypatch.setattr(room, "_WARM_UP_SECONDS", 0.0)


def test_a_bundle_is_timed_with_both_backends_at_every_depth(bundle, tmp_path):
    result = benchmark(bundle, tmp_path)
    assert [(row["backend"], row["depth"]) for row in result["rows"]] == [(b, d) for b in ("torch", "onnx", "openvino") for d in range(4)]
    for row in result["rows"]:
        assert row["status"] == "ok"
        assert row["shape"] == [1, 1] + [32 // 2 ** row["depth"]] * 3
        assert len(row["samples_s"]) >= 10
        assert row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["voxels_per_s"] == pytest.approx((32 // 2 ** row["depth"]) ** 3 / row["p50_ms"] * 1e3)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == result
    with (tmp_path / "benchmark.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_a_run_has_torch_alone_and_says_why(run, tmp_path):
    rows = benchmark(run, tmp_path, depths=[3])["rows"]
    assert [(row["backend"], row["status"]) for row in rows] == [
        ("torch", "ok"),
        *((backend, "skipped: a run has no engines") for backend in ("onnx", "openvino")),
    ]


def test_a_failed_row_does_not_end_the_table(bundle, tmp_path):
    with pytest.raises(SomeCasesFailed):
        benchmark(bundle, tmp_path, backends=["onnx"], depths=[3, 9, 2], shape=(32, 32, 32))
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["ok", "failed: the model has no such depth", "ok"]


def test_a_shape_that_no_engine_takes_is_said(bundle, tmp_path):
    with pytest.raises(SomeCasesFailed, match="cannot take the shape"):
        benchmark(bundle, tmp_path, backends=["onnx"], depths=[0], shape=(33, 32, 32))
