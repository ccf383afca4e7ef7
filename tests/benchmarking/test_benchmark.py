import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rarecli.core.benchmarking import benchmark as room
from rarecli.core.benchmarking import machine
from rarecli.core.benchmarking import measure as measuring
from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark, require_success
from rarecli.core.benchmarking.suites import Effort
from rarecli.core.errors import DataError, ModelError, RareError, SomeCasesFailed, UsageError

QUICK = Effort(warm_up_iterations=1, warm_up_seconds=0, iterations=4, seconds=0, rounds=2)


@pytest.fixture(autouse=True)
def _small_peaks(monkeypatch):
    monkeypatch.setattr(machine, "_MATRIX", 256)
    monkeypatch.setattr(machine, "_COPY_BYTES", 2**20)


def measure(model, output, **options):
    return benchmark(model, output, BenchmarkOptions(**{"effort": QUICK, "cold_start": False} | options))


def statuses(result):
    return {(row["backend"], row["entry"] and row["entry"][0]): row["status"] for row in result["rows"]}


def test_a_bundle_is_timed_at_every_depth_routed_and_upsampled(bundle, tmp_path):
    result = measure(bundle, tmp_path, backends=["onnx", "openvino"])
    require_success(result, tmp_path)
    expected = [*(("routed", depth) for depth in range(4)), *(("upsampled", depth) for depth in (1, 2, 3))]
    for backend in ("onnx", "openvino"):
        mine = [row for row in result["rows"] if row["backend"] == backend]
        assert [(row["method"], row["entry"][0]) for row in mine] == expected
    for row in result["rows"]:
        assert row["status"] == "ok"
        assert row["shape"] == [32 // 2 ** row["entry"][0]] * 3
        # a routed scan costs its own depth, an upsampled one the whole network
        assert row["work"]["gflop"] == result["rows"][row["entry"][0] if row["method"] == "routed" else 0]["work"]["gflop"]
        median_s = row["statistics"]["end_to_end"]["p50_ms"] / 1e3
        assert row["volumes_per_s"] == pytest.approx(1 / median_s)
        assert row["voxels_per_s"] == pytest.approx((32 // 2 ** row["entry"][0]) ** 3 / median_s)
        assert row["artefact_mb"] > 0.1
        # no engine exceeds the cores; where their peak is not known, the matrix product is no limit
        assert not any((row["work"][share] or 0) > 1 for share in ("share_of_peak", "share_of_roofline") if row["work"]["share_of_peak"])
    assert json.loads((tmp_path / "results.json").read_text()) == result
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["statistics_end_to_end_p50_ms"] for line in lines] == [
        str(row["statistics"]["end_to_end"]["p50_ms"]) for row in result["rows"]
    ]
    assert len((tmp_path / "results.md").read_text().split("\n| onnx |")) == 8 + 3 + 4 + 7
    for picture in ("latency", "cost", "roofline"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 1000


def test_the_split_adds_up(bundle, tmp_path):
    row = measure(bundle, tmp_path, backends=["onnx"], entries=[(1, 1, 1)], upsampled=False)["rows"][0]
    assert set(row["samples_ms"]) == {"preprocess", "compute", "argmax", "postprocess", "end_to_end"}
    assert [len(samples) for samples in row["samples_ms"]["compute"]] == [2, 2]
    for index in range(2):
        for sample in range(2):
            parts = [row["samples_ms"][stage][index][sample] for stage in row["samples_ms"]]
            # only the timer itself lies between the stages and the total
            assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.1)
    paper = row["statistics"]["compute"]["mean_ms"] + row["statistics"]["argmax"]["mean_ms"]
    assert row["paper_timing"]["mean_ms"] == pytest.approx(paper)


def test_rows_take_turns(bundle, tmp_path, monkeypatch):
    order = []
    visit = measuring._visit
    monkeypatch.setattr(measuring, "_visit", lambda row, *rest: (order.append((row.key.backend, row.own[0])), visit(row, *rest))[1])
    measure(bundle, tmp_path, backends=["onnx", "openvino"], entries=[(2, 2, 2), (3, 3, 3)], upsampled=False)
    turn = [("onnx", 2), ("onnx", 3), ("openvino", 2), ("openvino", 3)]
    assert order == turn * 2


def test_a_run_has_torch_alone_and_says_why(run, tmp_path):
    result = measure(run, tmp_path, entries=[(3, 3, 3)])
    require_success(result, tmp_path)
    found = statuses(result)
    assert found["torch", 3] == "ok"
    assert found["onnx", None] == found["openvino", None] == "skipped: a run has no engines"


def test_a_backend_that_was_asked_for_and_is_not_there_has_failed(run, tmp_path):
    result = measure(run, tmp_path, backends=["torch", "onnx"], entries=[(3, 3, 3)], upsampled=False)
    assert statuses(result) == {("torch", 3): "ok", ("onnx", None): "failed: a run has no engines"}
    with pytest.raises(SomeCasesFailed, match="1 of 2 rows failed: a run has no engines"):
        require_success(result, tmp_path)


def test_a_precision_that_one_backend_lacks_is_skipped_there(bundle, tmp_path):
    result = measure(bundle, tmp_path, backends=["onnx"], precisions=["fp32", "bf16"], entries=[(3, 3, 3)], upsampled=False)
    require_success(result, tmp_path)
    assert [row["status"] for row in result["rows"]] == ["ok", "skipped: this backend computes in fp32"]


def test_a_cuda_graph_without_a_gpu_says_so(run, tmp_path):
    result = measure(run, tmp_path, backends=["torch-cuda-graph"], device="cpu")
    assert statuses(result) == {("torch-cuda-graph", None): "failed: CUDA graphs need a GPU"}
    assert (tmp_path / "results.csv").exists()


def test_nothing_measured_is_a_failure(run, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "BACKENDS", ("onnx",))
    result = measure(run, tmp_path)
    assert [row["status"] for row in result["rows"]] == ["skipped: a run has no engines"]
    with pytest.raises(SomeCasesFailed, match="nothing was measured"):
        require_success(result, tmp_path)


def test_a_failed_row_does_not_end_the_table(bundle, tmp_path):
    result = measure(bundle, tmp_path, backends=["onnx"], entries=[(3, 3, 3), (9, 9, 9), (2, 2, 2)], shape=(32, 32, 32), upsampled=False)
    assert [row["status"] for row in result["rows"]] == ["ok", "failed: the model has no such entry", "ok"]


@pytest.mark.parametrize("shape", [(33, 32, 32), (16, 32, 32)])
def test_a_shape_that_no_engine_takes_is_said(bundle, tmp_path, shape):
    result = measure(bundle, tmp_path, backends=["onnx"], entries=[(0, 0, 0)], shape=shape)
    assert statuses(result) == {("onnx", 0): "failed: the engine does not accept this shape"}


def test_a_broken_engine_is_said_and_the_rest_goes_on(bundle, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bundle.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / "entry_2_2_2.onnx").write_bytes(b"no graph")
    result = measure(broken, tmp_path / "out", backends=["onnx"], upsampled=False)
    assert statuses(result)["onnx", 2] == "failed: a file of the bundle was changed"
    assert [status for (_, depth), status in statuses(result).items() if depth != 2] == ["ok"] * 3


def test_running_out_of_memory_is_a_row(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 2**20)
    result = measure(bundle, tmp_path, backends=["onnx"], entries=[(0, 0, 0), (3, 3, 3)], upsampled=False)
    assert statuses(result)["onnx", 0].startswith("failed: out of memory: at least 0.0 GB")
    monkeypatch.undo()

    def fail(*_):
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(measuring, "_visit", fail)
    assert statuses(measure(bundle, tmp_path / "next", backends=["onnx"], entries=[(3, 3, 3)])) == {("onnx", 3): "failed: out of memory"}


def test_a_cold_start_takes_longer_than_a_warm_one_and_has_a_peak_memory(bundle, tmp_path):
    options = {
        "backends": ["onnx"],
        "entries": [(3, 3, 3)],
        "upsampled": False,
        "cold_start": True,
        "max_latency_ms": 60_000,
        "max_memory_mb": 4000,
    }
    result = measure(bundle, tmp_path, **options)
    row = result["rows"][0]
    assert row["cold_start_ms"] > row["load_ms"] > row["statistics"]["compute"]["p50_ms"]
    assert 20 < row["peak_memory_mb"] < 4000  # no less than Python and numpy
    assert [fit["entry"][0] for fit in result["fitting"]] == [3]


def test_a_cold_start_that_dies_fails_its_row(bundle, tmp_path, monkeypatch):
    def fail(_):
        raise RareError("the process ended without a result")

    monkeypatch.setattr(measuring, "measure_cold_start", fail)
    result = measure(bundle, tmp_path, backends=["onnx"], entries=[(3, 3, 3)], upsampled=False, cold_start=True)
    assert statuses(result)["onnx", 3] == "failed: cold start: the process ended without a result"


def test_batches_and_threads_are_rows(run, tmp_path):
    result = measure(run, tmp_path, backends=["torch"], entries=[(3, 3, 3)], upsampled=False, batches=[1, 2], threads=[1, 2])
    assert [(row["threads"], row["batch"], row["status"]) for row in result["rows"]] == [(t, b, "ok") for t in (1, 2) for b in (1, 2)]
    one, two = result["rows"][:2]
    assert two["work"]["gflop"] == 2 * one["work"]["gflop"]
    assert {peak["threads"] for peak in result["peaks"]} == {1, 2}


def test_dice_stands_beside_latency(run, phantom_dataset, tmp_path):
    result = measure(run, tmp_path, backends=["torch"], entries=[(0, 0, 0), (3, 3, 3)], dataset=phantom_dataset, cases=["phantom_001"])
    scores = json.loads((tmp_path / "accuracy_fp32" / "summary.json").read_text())["per_depth"]
    routed = {row["entry"][0]: row["dice"] for row in result["rows"] if row["method"] == "routed"}
    assert routed == {0: scores["0"]["dice"], 3: scores["3"]["dice"]}
    assert all("dice" not in row for row in result["rows"] if row["method"] == "upsampled")
    assert (tmp_path / "dice_over_latency.png").stat().st_size > 1000


def test_a_dataset_that_cannot_be_scored_fails_but_keeps_the_table(run, tmp_path):
    result = measure(run, tmp_path / "out", backends=["torch"], entries=[(3, 3, 3)], dataset=tmp_path / "none")
    assert result["rows"][0]["status"] == "ok"
    with pytest.raises(SomeCasesFailed):
        require_success(result, tmp_path / "out")


def test_a_slower_row_is_found_and_judged(run, tmp_path):
    first = measure(run, tmp_path / "first", backends=["torch"], entries=[(2, 2, 2), (3, 3, 3)], upsampled=False)
    for row in first["rows"]:
        row["statistics"]["compute"]["p50_ms"] /= 1000 if row["entry"][0] == 3 else 1e-3
    (tmp_path / "earlier.json").write_text(json.dumps(first))
    again = measure(
        run, tmp_path / "again", backends=["torch"], entries=[(2, 2, 2), (3, 3, 3)], upsampled=False, against=tmp_path / "earlier.json"
    )
    assert [row["ratio"] > 1.2 for row in again["against"]["rows"]] == [False, True]
    with pytest.raises(SomeCasesFailed, match="1 of 2 rows are slower than before") as error:
        require_success(again, tmp_path)
    assert "torch, routed, entry 3" in str(error.value)
    patient = measure(
        run, tmp_path, backends=["torch"], entries=[(2, 2, 2), (3, 3, 3)], upsampled=False, against=tmp_path / "earlier.json", threshold=1e6
    )
    require_success(patient, tmp_path)


def test_a_suite_needs_no_model_and_says_that_its_parity_was_not_gated(tmp_path):
    result = measure(None, tmp_path, suite="smoke", effort=None)
    require_success(result, tmp_path)
    good = [row for row in result["rows"] if row["status"] == "ok"]
    assert {(row["backend"], row["method"], row["entry"][0]) for row in good} >= {
        (backend, *rest) for backend in ("torch", "onnx", "openvino") for rest in (("routed", 0), ("routed", 1), ("upsampled", 1))
    }
    assert result["name"].startswith("smoke_")
    assert all(row["max_rel_off_torch"] < 1e-4 for row in good if row["backend"] != "torch")
    assert any("without the parity gate" in note for note in result["notes"])
    assert result["timer"]["share_of_shortest_row"] < 0.01


def test_a_suite_tells_what_to_measure_on_a_model(bundle, tmp_path):
    result = measure(bundle, tmp_path, suite="smoke", backends=["onnx"], entries=[(3, 3, 3)])
    assert [(row["backend"], row["shape"]) for row in result["rows"]] == [("onnx", [4, 4, 4])] * 2
    assert not result["model"]["random_weights"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, UsageError),
        ({"suite": "smoke", "dataset": "x"}, UsageError),
        ({"suite": "none"}, UsageError),
        ({"against": "none"}, DataError),
        ({"suite": "smoke", "batches": [0]}, UsageError),
        ({"suite": "smoke", "threads": [-1]}, UsageError),
    ],
)
def test_a_mistake_costs_nothing(options, error, tmp_path):
    paths = {key: Path(value) if key in ("dataset", "against") else value for key, value in options.items()}
    with pytest.raises(error):
        measure(None, tmp_path / "out", **paths)
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a model"):
        measure(tmp_path / "none", tmp_path / "out")


def test_the_command_prints_the_table_before_it_fails(bundle, tmp_path):
    command = [sys.executable, "-m", "rarecli", "benchmark", bundle, "-o", tmp_path, "--backends", "onnx,abacus", "--depths", "3"]
    result = subprocess.run([*command, "--no-upsampled", "--no-cold-start"], capture_output=True, text=True, check=False)
    assert result.returncode == 6, result.stderr
    assert "failed: no such backend" in result.stdout
    assert "4x4x4" in result.stdout
    assert "1 of 2 rows failed" in result.stderr


def test_engines_are_timed_where_there_is_no_torch(bundle, tmp_path):
    block = (
        "import sys\nclass Blocked:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'matplotlib'):\n            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocked())\nfrom rarecli.cli import main\nmain()\n"
    )
    options = ["--backends", "openvino", "--depths", "3", "--no-cold-start", "--no-upsampled"]
    command = [sys.executable, "-c", block, "benchmark", bundle, "-o", tmp_path, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "no pictures: the package matplotlib is not installed" in result.stderr
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["status"] == "ok"
