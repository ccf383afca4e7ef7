"""A runner that is wrong only on a large constant background is found by all that compare runners."""

import numpy as np
import pytest

from rarecli import Predictor
from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark
from rarecli.core.benchmarking.suites import Effort
from rarecli.core.engines import open_model as opening
from rarecli.core.engines.onnx_runner import OnnxRunner
from rarecli.core.engines.openvino_runner import OpenVinoRunner
from rarecli.core.errors import ModelError
from rarecli.core.info.info import info

RUNNERS = {"onnx": OnnxRunner, "openvino": OpenVinoRunner}
QUICK = Effort(warm_up_iterations=1, warm_up_seconds=0, iterations=1, seconds=0, rounds=1)


@pytest.fixture(params=RUNNERS)
def wrong(request, monkeypatch):
    """The name of a backend whose logits are off by a thousandth where over 10,000 voxels are mostly 0."""
    runner = RUNNERS[request.param]
    right = runner.run

    def run(self, image, entry):
        logits = right(self, image, entry)
        is_large_background = image.size > 10_000 and (image == 0).mean() > 0.7
        return logits * np.float32(1.001) if is_large_background else logits

    monkeypatch.setattr(runner, "run", run)
    return request.param


def test_fault_54_verify_finds_it(wrong, bundle):
    """Found by `rare info --verify`, `rare benchmark --suite` and the export."""
    right = next(backend for backend in RUNNERS if backend != wrong)
    facts = info(bundle, verify=True, backend=right)["verified"]
    assert sum("of torch" in line for line in facts) == 4
    with pytest.raises(ModelError, match="does not agree") as caught:
        info(bundle, verify=True, backend=wrong)
    assert f"{wrong}, on a large image" in str(caught.value)
    assert caught.value.exit_code == 4


def test_verify_compares_with_another_engine_where_there_is_no_torch(wrong, bundle, monkeypatch):
    without = {"torch": "no_such_package"}
    monkeypatch.setattr(opening, "_PACKAGES", opening._PACKAGES | without)
    with pytest.raises(ModelError, match="does not agree"):
        info(bundle, verify=True, backend=wrong)
    monkeypatch.setattr(opening, "_PACKAGES", opening._PACKAGES | without | {"onnx": "no_such_package", "openvino": "no_such_package"})
    alone = info(bundle, verify=True, backend=wrong)
    assert "not compared" in alone["verified"][-1]
    assert alone["verdict"].startswith("4 checks passed: 4 conformance vectors and 0 large images")


def test_benchmark_finds_it(wrong, tmp_path):
    options = BenchmarkOptions(
        suite="smoke", backends=list(RUNNERS), entries=[(0, 0, 0), (1, 1, 1)], upsampled=False, effort=QUICK, cold_start=False
    )
    result = benchmark(None, tmp_path / "out", options)
    off = {(row["backend"], row["entry"][0]): row["max_rel_off_torch"] for row in result["rows"] if row["status"] == "ok"}
    assert len(off) == 4
    for (backend, _), share in off.items():
        assert (share > 5e-4) == (backend == wrong)


def test_prediction_with_it_is_not_noticed_on_small_images(wrong, bundle):
    """So the small images of the conformance vectors would not find it."""
    with Predictor(bundle, backend=wrong) as predictor:
        image = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
        with Predictor(bundle, backend="torch", device="cpu") as other:
            np.testing.assert_allclose(predictor.runner.run(image, (1, 1, 1)), other.runner.run(image, (1, 1, 1)), atol=1e-4)
