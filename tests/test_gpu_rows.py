"""`benchmarks/gpu.sh`: no row stops another, time limits hold, and a training goes on from what a call brought back."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.config.run_folder import LAST, load_resumed_config, load_run_info
from rarecli.core.config.train_config import load_train_config
from rarecli.core.errors import ModelError
from rarecli.core.model import build_network, checkpoint
from rarecli.core.training.train import TrainOptions, train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MIB = 2**20
PAPER = NetworkConfig(in_channels=4, num_classes=4, num_filters=32, num_levels=5, num_depths=4)


@pytest.fixture
def scripts(monkeypatch):
    """Import a script of benchmarks/ by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith("gpu_") or name == "paper_size"]:
        sys.modules.pop(name)


def gpu_sh(*options, **variables):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
    command = [BENCHMARKS / "gpu.sh", "--device", "cpu", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def python(code):
    return (sys.executable, "-c", code)


def test_a_dry_run_shows_every_row_and_what_would_not_run_and_why(tmp_path):
    shown = gpu_sh("--dry-run", OUT=str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    heads = {int(line.split()[1]): line for line in shown.stdout.splitlines() if line.startswith("row ")}
    assert sorted(heads) == [1, 2, 3, 4, 5, 6]
    assert "not run: no dataset: give --hippocampus FOLDER" in heads[2]
    assert "not run: no CUDA with --device cpu" in heads[4]
    assert "not run: no CUDA with --device cpu" in heads[5]
    assert not any("not run" in heads[number] for number in (1, 3, 6))
    for part in (
        "--suite brain-tumour --backends torch ",
        "--preset hippocampus-paper",
        "--num-levels 5 --fixed-shape 256,256,128",
        "--preset brain-tumour-paper",
    ):
        assert part in shown.stdout
    graph = next(line for line in shown.stdout.splitlines() if "--backends torch-cuda-graph" in line)
    assert graph.endswith("# left out: no CUDA with --device cpu")
    assert not (tmp_path / "out").exists()


def test_a_part_shows_its_rows_and_the_parts_hold_all_rows_within_eight_minutes(scripts, tmp_path):
    rows_of = scripts("gpu_rows")
    rows = {row.number: row for row in rows_of.make_rows(rows_of.Settings(tmp_path, tmp_path, checkpoint=tmp_path))}
    assert sorted(number for part in rows_of.PARTS.values() for number in part) == sorted(rows)
    for part, numbers in rows_of.PARTS.items():
        assert 60 * sum(rows[number].minutes for number in numbers) + rows_of.GRACE_S <= 8 * 60
        assert [row.number for row in rows_of.chosen(list(rows.values()), part, None)] == list(numbers)
    with pytest.raises(SystemExit, match="no row 7"):
        rows_of.chosen(list(rows.values()), None, "6,7")


def test_no_row_stops_another_and_the_table_is_that_of_rows_json(scripts, tmp_path):
    call = scripts("gpu_call")
    work, output, pid = tmp_path / "work", tmp_path / "out", tmp_path / "pid"
    fails = python("print('Error: no such thing\\n  remedy: none'); raise SystemExit(4)")
    # it ignores the request to end, and has a child
    hangs = python(
        "import pathlib, signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"child = subprocess.Popen(['sleep', '600']); pathlib.Path({str(pid)!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    works = python(f"import json, pathlib; pathlib.Path({str(work / 'row3' / 'found.json')!r}).write_text(json.dumps(dict(dice=0.5)))")
    rows = [
        call.Row(1, "fails, then works", (call.Command("part", fails, 0.01), call.Command("part", python("print('went on')"), 0.5))),
        call.Row(2, "hangs", (call.Command("part", hangs, 0.03),)),
        call.Row(3, "works", (call.Command("part", works, 0.5), call.Command("part", fails, 0.1, ("cuda",))), ("found.json",)),
        call.Row(4, "needs what is not there", (call.Command("part", fails, 0.1, ("cuda",)),)),
        call.Row(5, "is too long", (call.Command("part", fails, 60.0),)),
        call.Row(6, "has no program", (call.Command("part", ("no-such-program",), 0.1),)),
    ]
    the_call = call.Call(time.monotonic() + 120, 0.2, {"cuda": "no CUDA"}, {"device": "cpu"})
    records = call.run_rows(rows, output, work, the_call)
    assert [record.status for record in records] == ["failed", "failed", "done", "not run", "not run", "failed"]
    assert "exit code 4: Error: no such thing" in records[0].reason
    assert "time limit of 2 s" in records[1].reason
    assert "left out (no CUDA): part" in records[2].reason
    assert records[3].reason == "no CUDA"
    assert records[4].reason.startswith("no time left")
    assert "no-such-program" in records[5].reason
    assert "went on" in (output / "row1.log").read_text()
    assert json.loads((output / "row3.json").read_text()) == {"found.json": {"dice": 0.5}}
    assert records[2].files == ["row3.log", "row3.json"]
    with pytest.raises(ProcessLookupError):
        _signal_until_gone(int(pid.read_text()))
    kept = json.loads((output / "rows.json").read_text())
    assert kept["device"] == "cpu"
    lines = call.table(records).splitlines()[1:]
    assert len(lines) == len(kept["rows"])
    for line, row in zip(lines, kept["rows"], strict=True):
        for part in (str(row["number"]), row["status"], row["title"], row["reason"], *row["files"]):
            assert part in line


def _signal_until_gone(pid):
    for _ in range(100):  # a killed process stays until its parent, here the first process of the machine, has asked for it
        os.kill(pid, 0)
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            raise ProcessLookupError
        time.sleep(0.05)


def test_a_training_that_is_stopped_at_its_limit_counts_as_done(scripts, tmp_path):
    call = scripts("gpu_call")
    saves = python("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(600)")
    rows = [call.Row(number, "trains", (call.Command("part", saves, 0.02, may_stop=may),)) for number, may in ((1, True), (2, False))]
    one, other = call.run_rows(rows, tmp_path / "out", tmp_path / "work", call.Call(time.monotonic() + 60, 20.0))
    assert (one.status, other.status) == ("done", "failed")
    assert "with its state saved" in one.reason
    assert other.reason.startswith("time limit")


def test_a_call_that_is_ended_leaves_rows_json_and_no_process(scripts, tmp_path):
    pid = tmp_path / "pid"
    stays = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import gpu_rows; from gpu_call import Command, Row;"
        f"stays = Command('stays', (sys.executable, '-c', {stays!r}), 1.0);"
        "gpu_rows.make_rows = lambda to: [Row(1, 'stays', (stays,)), Row(2, 'waits', (stays,))];"
        f"sys.exit(gpu_rows.main(['--device', 'cpu', '--output', {str(tmp_path / 'out')!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        _signal_until_gone(int(pid.read_text()))
    kept = json.loads((tmp_path / "out" / "rows.json").read_text())["rows"]
    assert [(row["status"], row["reason"]) for row in kept][1] == ("not run", "the call ended before it")


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(1)", 6), ("pass", 0)])
def test_the_exit_code_says_whether_a_row_failed(scripts, tmp_path, monkeypatch, capsys, code, expected):
    rows, call = scripts("gpu_rows"), scripts("gpu_call")
    monkeypatch.setattr(rows, "make_rows", lambda to: [call.Row(1, "only", (call.Command("part", python(code), 0.1),))])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert rows.main(["--device", "cpu", "--output", str(tmp_path)]) == expected
    assert ("failed" if expected else "done") in capsys.readouterr().out


def write_wheel(folder, module, code):
    facts = f"{module}-1.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\nRequires-Dist: torch>99\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", f"{module}.py,,\n{facts}/METADATA,,\n{facts}/WHEEL,,\n{facts}/RECORD,,\n")


def test_the_ranks_and_the_finite_check_run_on_a_cpu_with_wheels_beside_them(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-99-py3-none-any.whl").write_bytes(b"not to be installed")
    (wheels / "broken-1-py3-none-any.whl").write_bytes(b"no wheel")
    told = tmp_path / "told"
    write_wheel(wheels, "sitecustomize", f"open({str(told)!r}, 'w').close()")  # Python imports it at every start
    ran = gpu_sh("--tiny", "--only", "6,4", "--wheels", wheels, OUT=str(tmp_path / "out"), TMPDIR=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert "the machine's own is used: torch-99" in ran.stderr
    assert "not installed: broken-1" in ran.stderr
    assert told.is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("rare-gpu-", "tmp."))]
    by_number = {row["number"]: row for row in json.loads((tmp_path / "out" / "rows.json").read_text())["rows"]}
    assert by_number[4]["status"] == "not run"
    assert by_number[6]["status"] == "done"
    checks = json.loads((tmp_path / "out" / "row6.json").read_text())["smoke.json"]["checks"]
    assert set(checks) == {"ranks", "non-finite fp32", "non-finite bf16", "training bf16"}
    assert all(check["good"] for check in checks.values())


@pytest.mark.slow
def test_a_training_at_paper_size_goes_on_in_a_second_call(tmp_path):
    """With tiny sizes: phantoms, preprocess, train, pack; then the same with the checkpoint of the first call."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert gpu_sh("--tiny", "--only", "3", "--epochs", 2, OUT=str(first)).returncode == 0
    again = gpu_sh("--tiny", "--only", "3", "--epochs", 4, "--checkpoint", first / "checkpoint", OUT=str(second))
    assert again.returncode == 0, again.stdout
    assert json.loads((second / "row3.json").read_text())["throughput.json"]["epochs"] == [4]  # the third warms up


# ---- the checkpoint


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    """The run in every form, by form: each time with one byte less than the form before took. Limits: eight files."""
    sys.path.insert(0, str(BENCHMARKS))
    import gpu_checkpoint as packing

    found, most = {}, 2**40
    while len(found) < len(packing.FORMS):
        folder = tmp_path_factory.mktemp("packed") / "checkpoint"
        limits = packing.Limits(num_files=8, file_bytes=most // 5 + 1, total_bytes=most)
        found[packing.pack(run, folder, limits)] = folder
        sizes = [path.stat().st_size for path in folder.iterdir()]
        assert len(sizes) <= limits.num_files
        assert max(sizes) <= limits.file_bytes
        assert sum(sizes) <= limits.total_bytes
        most = sum(sizes) - 1
    sys.path.remove(str(BENCHMARKS))
    sys.modules.pop("gpu_checkpoint")
    return found


@pytest.mark.parametrize("form", ["exact", "halves", "weights", "average", "average8", "average6"])
def test_a_packed_and_unpacked_run_resumes(scripts, run, packed, prepared, tmp_path, form):
    packing, again = scripts("gpu_checkpoint"), tmp_path / "again"
    assert packing.unpack(packed[form], again) == form
    assert packing.num_epochs(packed[form]) == 2
    if form == "exact":
        ours, theirs = checkpoint.load_state(run), checkpoint.load_state(again)
        assert ours[1] == theirs[1]
        assert ours[0].keys() == theirs[0].keys()
        assert all(torch.equal(tensor, theirs[0][name]) for name, tensor in ours[0].items())
    config = load_train_config(overrides={"epochs": 3}, base=load_resumed_config(again))
    assert train(prepared, again, config, TrainOptions(device="cpu", resume=True))["epoch"] == 3
    assert load_run_info(again).split == load_run_info(run).split
    assert len((again / "log.jsonl").read_text().splitlines()) == 3


def test_forms_lose_what_they_say(scripts):
    """Bounds: half a unit in the last of 11 bits, half a step of 127 or 31 per channel; a product of rows and columns stays as it is."""
    packing = scripts("gpu_checkpoint")
    weight = torch.randn(4, 3, 3, 3, 3)
    second = torch.outer(torch.rand(4), torch.rand(81)).reshape(weight.shape)
    tensors = {
        "network.a": weight,
        "average.a": weight * 0.9,
        "network.bias": torch.randn(4),
        "average.bias": torch.randn(4),
        "optimiser.a.exp_avg": torch.randn(weight.shape) * 1e-9,
        "optimiser.a.exp_avg_sq": second * 1e-12,
        "optimiser.a.step": torch.tensor(7.0),
    }

    def through(form):
        return packing._decoded(dict(packing._encoded(tensors, form)), form)

    halves, weights = through("halves"), through("weights")
    assert halves.keys() == weights.keys() == tensors.keys()
    torch.testing.assert_close(halves["optimiser.a.exp_avg"], tensors["optimiser.a.exp_avg"], rtol=2**-8, atol=0)
    torch.testing.assert_close(halves["optimiser.a.exp_avg_sq"], tensors["optimiser.a.exp_avg_sq"], rtol=2**-7, atol=0)
    torch.testing.assert_close(weights["network.a"], weight, rtol=2**-11, atol=2**-24)
    torch.testing.assert_close(weights["optimiser.a.exp_avg_sq"], tensors["optimiser.a.exp_avg_sq"], rtol=1e-4, atol=0)
    assert not weights["optimiser.a.exp_avg"].any()
    assert weights["optimiser.a.step"] == 7
    most = tensors["average.a"].abs().amax((1, 2, 3, 4), keepdim=True)
    for form, steps in (("average8", 254), ("average6", 62)):
        coarse = through(form)
        assert coarse.keys() == tensors.keys()
        assert ((coarse["average.a"] - tensors["average.a"]).abs() <= most / steps * 1.001).all()
        assert torch.equal(coarse["network.a"], coarse["average.a"])
        assert torch.equal(coarse["network.bias"], tensors["average.bias"])


def test_a_damaged_or_incomplete_checkpoint_is_refused(scripts, run, tmp_path):
    packing = scripts("gpu_checkpoint")
    folder = tmp_path / "packed"
    packing.pack(run, folder, packing.Limits(num_files=8, file_bytes=(run / LAST).stat().st_size // 3))
    pieces = sorted(folder.iterdir())
    assert len(pieces) >= 3
    content = bytearray(pieces[2].read_bytes())
    content[len(content) // 2] ^= 1
    pieces[2].write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        packing.unpack(folder, tmp_path / "again")
    pieces[1].unlink()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        packing.unpack(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(ValueError, match="no form"):
        packing.pack(run, folder, packing.Limits(total_bytes=1000))
    (folder / "notes").touch()
    with pytest.raises(ValueError, match="other files"):
        packing.pack(run, folder)


def test_a_new_checkpoint_replaces_the_one_before_and_counts_what_lies_beside_it(scripts, run, tmp_path):
    packing = scripts("gpu_checkpoint")
    (tmp_path / "rows.json").write_bytes(bytes(MIB))
    folder, size = tmp_path / "checkpoint", (run / LAST).stat().st_size
    packing.pack(run, folder, packing.Limits(8, size // 3, 3 * size))
    left = packing.Limits(8, 16 * MIB, 64 * MIB).less(tmp_path, folder)
    assert left == packing.Limits(6, 16 * MIB, 63 * MIB - MIB // 4)
    packing.pack(run, folder, left)
    assert [path.name for path in folder.iterdir()] == ["state_0_of_1"]


def test_the_network_of_the_paper_fits_64_mib_with_its_averages_in_half_precision(scripts):
    packing = scripts("gpu_checkpoint")
    with torch.device("meta"):
        weights = build_network(PAPER).state_dict()
    tensors = {f"{part}.{name}": tensor for name, tensor in weights.items() for part in ("network", "average")}
    tensors |= {f"optimiser.{name}.{key}": tensor for name, tensor in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    mib = {form: sum(tensor.nbytes for _, tensor in packing._encoded(tensors, form)) / MIB for form in packing.FORMS}
    # 32.8 M weights, the gateways included: 16, 4, 2 and 1 bytes of each, before compression
    assert mib == pytest.approx({"exact": 500, "halves": 250, "weights": 125, "average": 63, "average8": 31.5, "average6": 31.5}, rel=0.02)
    assert mib["average"] < 63.5  # with a log and the results, in 64 MiB


def test_the_floor_of_a_training_step_is_three_forward_passes_at_every_depth(scripts, tmp_path):
    """GFLOP of the paper's network at depth 0 to 3: 3131, 1463, 640, 231."""
    suites = importlib.import_module("rarecli.core.benchmarking.suites")
    spec = suites.random_spec(suites.load_suite("brain-tumour"))
    assert scripts("gpu_training").training_flop(spec) / 1e9 == pytest.approx(3 * (3131 + 1463 + 640 + 231), abs=6)


def test_throughput_leaves_out_the_epochs_before_and_the_first_of_the_process(scripts, run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "run.json").write_bytes((run / "run.json").read_bytes())
    seconds = [100.0, 50.0, 2.0, 4.0]
    lines = [{"epoch": n, "seconds": s, "waited_for_data": 0.5, "loss": 1.0} for n, s in enumerate(seconds, 1)]
    (copy / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    training = scripts("gpu_training")
    num = len(load_run_info(run).split["train"])
    found = training.throughput(copy, 1, 790)
    assert found["epochs"] == [3, 4]
    assert found["volumes_per_s"] == pytest.approx(2 * num / 6)
    assert found["share_of_floor"] == pytest.approx(found["flop_per_volume"] / 790e12 * 2 * num / 6)
    with pytest.raises(ValueError, match="no epoch"):
        training.throughput(copy, 4, 790)


def test_the_weights_of_an_unpacked_run_are_its_averages(scripts, run, tmp_path):
    packing = scripts("gpu_checkpoint")
    packing.pack(run, tmp_path / "packed")
    packing.unpack(tmp_path / "packed", tmp_path / "again")
    ours, theirs = (checkpoint.load_tensors(folder / "weights.safetensors")[0] for folder in (run, tmp_path / "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
