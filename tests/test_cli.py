"""The command line as users run it, in real processes where processes matter."""

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import openvino
import pytest
from typer.testing import CliRunner

from rarecli import Phantom, Predictor
from rarecli.cli import app
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.errors import DataError, RareError
from rarecli.core.evaluation.score import score
from rarecli.core.imaging.volume import write_image
from rarecli.core.info.info import info
from rarecli.core.prediction.predict import PredictOptions, predict

COMMANDS = ["preprocess", "train", "predict", "evaluate", "calibrate", "score", "export", "benchmark", "info", "models", "convert", "demo"]


def rare(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "rarecli", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.fixture
def scan(tmp_path):
    image, _ = Phantom(2).acquire(2.0, "LPS")
    write_image(tmp_path / "scan.nii.gz", image.data[0], image)
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_there_and_imports_nothing_heavy(command):
    probe = (
        "import sys\nfrom rarecli.cli import main\nsys.argv = ['rare', *sys.argv[1:], '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'nibabel', 'onnx', 'pydantic', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", probe, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout
    if command:
        assert "Example: rare" in result.stdout


def test_predict_writes_labels_on_the_grid_of_the_scan_and_says_the_depth(run, scan, tmp_path):
    result = rare("predict", scan, "-m", run, "-o", tmp_path / "labels.nii.gz", "--json")
    assert result.returncode == 0, result.stderr
    assert "scan: depth 1 (spacing 2 mm, grid 2 mm)" in result.stderr
    assert json.loads(result.stdout)["cases"]["scan"]["entry"] == [1, 1, 1]
    source, labels = nib.load(scan), nib.load(tmp_path / "labels.nii.gz")
    assert labels.shape == source.shape
    np.testing.assert_array_equal(labels.affine, source.affine)


def test_a_folder_is_predicted_with_a_report_of_the_command_or_without(run, scan, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(scan, tmp_path / "in" / "a&b.nii.gz")
    command = ("predict", "in", "-m", run, "-o", "my out")
    assert rare(*command, cwd=tmp_path).returncode == 0
    page = (tmp_path / "my out" / "report.html").read_text()
    assert f'<pre tabindex="0" aria-label="Command">rare predict in -m {run} -o &#39;my out&#39;</pre>' in page
    assert "a&amp;b" in page
    result = rare(*command, "--overwrite", "--no-report", cwd=tmp_path)
    assert (result.returncode, (tmp_path / "my out" / "report.html").exists()) == (0, False)


def test_a_bundle_predicts_where_there_is_no_torch(run, bundle, scan, tmp_path):
    block = (
        "import sys\nclass Blocked:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'matplotlib'):\n            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocked())\nfrom rarecli.cli import main\nmain()\n"
    )
    command = [sys.executable, "-c", block, "predict", str(scan), "-m", str(bundle), "-o", str(tmp_path / "bundle.nii.gz")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert rare("predict", scan, "-m", run, "-o", tmp_path / "run.nii.gz").returncode == 0
    same = nib.load(tmp_path / "bundle.nii.gz").get_fdata() == nib.load(tmp_path / "run.nii.gz").get_fdata()
    assert same.mean() > 0.9999
    # and a run, which needs it, names the extra
    command[command.index(str(bundle))] = str(run)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 5
    assert "torch is not installed" in result.stderr
    assert 'pip install "rare-unet[train]"' in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict", "none.nii.gz", "-m", "RUN", "-o", "x.nii.gz"], 3, ["no such file", "none.nii.gz"]),
        (["predict", "SCAN", "-m", "none", "-o", "x.nii.gz"], 4, ["not a model", "none"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--depth", "7"], 2, ["no such entry", "found: depth 7", "depth 0; depth 1"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--entry", "0,0,9"], 2, ["no such entry", "entry 0,0,9", "depth 0; depth 1"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--entry", "0,0"], 2, ["a depth per axis", "0,0,2"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--entry", "0,0,1", "--depth", "1"], 2, ["exclude each other"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "1x4"], 2, ["neither a list of spacings"]),
        (["export", "RUN", "-o", "x", "--entries", "thick"], 2, ["no such entry", "entry 0,0,1"]),
        (["export", "RUN", "-o", "x", "--entries", "all", "--depths", "1"], 2, ["exclude each other"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--backend", "abacus"], 2, ["abacus", "torch"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--device", "cuda:9"], 5, ["GPU", "--device cpu"]),
        (["train", "none", "-o", "x"], 3, ["not a prepared dataset", "rare preprocess"]),
        (["train", "PREPARED", "-o", "x", "--set", "optimizer.lr=1"], 2, ["optimizer", "did you mean optimiser.lr?"]),
        (["train", "PREPARED", "-o", "x", "--preset", "hipocampus"], 2, ["hippocampus-paper", "did you mean hippocampus?"]),
        (["train", "PREPARED", "-o", "x", "--set", "a=["], 2, ["is not valid YAML"]),
        (["train", "PREPARED", "-o", "x", "--set", "optimiser.lr=.inf"], 2, ["optimiser.lr", "finite"]),
        (["train", "PREPARED", "-o", "x", "--set", "monitor=dice_foo"], 2, ["dice_foo", "dice_mean, dice_depth0"]),
        (["train", "PREPARED", "-o", "PREPARED"], 2, ["exists and is not a run"]),
        (["train", "PREPARED", "-o", "x", "--targets", "paper"], 2, ["--fixed-shape"]),
        (["train", "PREPARED", "-o", "RUN", "--resume", "--splits", "s.json"], 2, ["keeps its split"]),
        (["preprocess", "DATASET", "-o", "/proc/x"], 5, ["cannot write", "/proc/x"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "SCAN"], 2, ["would replace the scan"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--depths", "9"], 2, ["no such depth", "0 to 3"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--depths=-1"], 2, ["no such depth"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "1:a:3"], 2, ["1:a:3", "LOW:HIGH:NUM"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "1:8:1"], 2, ["1:8:1", "LOW:HIGH:NUM"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "0,1"], 2, ["above 0"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "nan"], 2, ["above 0"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--spacings", "1", "--protocol", "paper"], 2, ["require protocol native"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--against", "PREPARED"], 3, ["file is missing", "summary.json"]),
        (["train", "PREPARED", "-o", "x", "--fold", "9"], 2, ["no such fold", "0 to 4"]),
        (["train", "PREPARED", "-o", "x", "--resume"], 2, ["nothing to resume"]),
        (["preprocess", "PREPARED", "-o", "x"], 3, ["no known layout", "dataset.json"]),
        (["preprocess", "DATASET", "-o", "x", "--patch-size", "33,32,32"], 2, ["found: 33", "32 or 48"]),
        (["preprocess", "DATASET", "-o", "x", "--spacing", "1,2"], 2, ["X,Y,Z"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--backend", "tensorrt"], 2, ["no engines", "rare export"]),
        (
            ["predict", "SCAN", "-m", "BUNDLE", "-o", "x.nii.gz", "--backend", "tensorrt"],
            2,
            ["no TensorRT plans", "--format onnx,tensorrt"],
        ),
        (["predict", "SCAN", "-m", "BUNDLE", "-o", "x.nii.gz", "--precision", "int4"], 2, ["int4", "fp32, bf16, int8"]),
        (["export", "RUN", "-o", "x", "--precision", "fp8"], 2, ["fp8", "fp16"]),
        (["export", "RUN", "-o", "x", "--depths", ","], 2, ["not a list of whole numbers"]),
        (["export", "RUN", "-o", "x", "--depths", "a"], 2, ["0,1,2"]),
        (["export", "RUN", "-o", "x", "--format", "coreml"], 2, ["coreml", "onnx, tensorrt"]),
        (["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--cases", "none.txt"], 2, ["none.txt"]),
        (["benchmark", "-o", "x"], 2, ["nothing to measure", "--suite"]),
        (["benchmark", "-o", "x", "--suite", "hippo"], 2, ["hippo", "brain-tumour, hippocampus, smoke"]),
        (["benchmark", "none", "-o", "x"], 4, ["not a model", "none"]),
        (["benchmark", "-o", "x", "--suite", "smoke", "--dataset", "DATASET"], 2, ["random weights have no Dice"]),
        (["train", "PREPARED", "-o", "x", "--resume-from", "PREPARED"], 2, ["nothing to resume"]),
        (["train", "PREPARED", "-o", "x", "--device", "0,1", "--nproc", "3"], 2, ["--nproc and --device disagree"]),
        (["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz", "--device", "0,1"], 2, ["list of devices"]),
        (["evaluate", "DATASET", "-m", "BUNDLE", "-o", "x", "--folds"], 4, ["only a run records"]),
        (["info", "none"], 3, ["no such file"]),
        (["info"], 2, ["nothing to describe", "rare models"]),
        (["info", "DATASET", "-m", "none"], 4, ["not a model"]),
        (["convert", "none.pth", "-o", "x"], 4, ["no such file", "none.pth"]),
        (["convert", "RUN", "-o", "x"], 3, ["neither a checkpoint nor cases", "best_model.pth"]),
        (["convert", "RUN/run.json", "-o", "RUN"], 2, ["output exists"]),
        (["train"], 2, ["PREPARED"]),
    ],
)
def test_a_mistake_has_its_code_and_its_words(arguments, code, words, run, bundle, prepared, phantom_dataset, scan, tmp_path, monkeypatch):
    places = {"RUN": run, "BUNDLE": bundle, "PREPARED": prepared, "DATASET": phantom_dataset, "SCAN": scan}
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [str(places.get(argument, argument)) for argument in arguments])
    if isinstance(result.exception, RareError):
        assert result.exception.exit_code == code
        said = str(result.exception)
    else:
        assert result.exit_code == code
        said = result.output
    for word in words:
        assert word in said
    assert {path.name for path in tmp_path.iterdir()} <= {"scan.nii.gz", "x"}
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())


def test_what_was_done_is_printed_although_some_cases_failed(run, tmp_path):
    """The result of the other cases is handed on with the error; `main` prints both as one object (tests/commands/test_json_errors.py)."""
    write_phantoms(tmp_path / "data", range(2), 8.0)
    (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    predict = ["predict", str(tmp_path / "data" / "imagesTr"), "-m", str(run), "-o", str(tmp_path / "labels"), "--json"]
    result = CliRunner().invoke(app, predict)
    assert result.exception.exit_code == 6
    assert list(result.exception.result["cases"]) == ["phantom_001"]
    assert list(result.exception.result["failed"]) == ["phantom_000"]
    assert result.stdout == ""
    evaluation = [
        "evaluate",
        str(tmp_path / "data"),
        "-m",
        str(run),
        "-o",
        str(tmp_path / "scores"),
        "--depths",
        "0",
        "--no-surface",
        "--all-cases",
    ]
    result = CliRunner().invoke(app, [*evaluation, "--json"])
    assert result.exception.exit_code == 6
    assert list(result.exception.result["failed"]) == ["phantom_000"]
    assert result.stdout == ""
    result = CliRunner().invoke(app, [*evaluation, "--overwrite"])
    assert result.exception.exit_code == 6
    assert "routed" in result.stdout


def test_a_curve_and_a_comparison_are_printed(run, phantom_dataset, tmp_path):
    (tmp_path / "two.txt").write_text("phantom_000\nphantom_001\n")
    command = [
        "evaluate",
        str(phantom_dataset),
        "-m",
        str(run),
        "--cases",
        str(tmp_path / "two.txt"),
        "--spacings",
        "2,4",
        "--no-surface",
    ]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "one")])
    assert result.exit_code == 0, result.output
    assert "restored: largest jump where the depth changes" in result.stdout
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "two"), "--against", str(tmp_path / "one")])
    assert result.exit_code == 0, result.output
    assert "2.8256 mm" in result.stdout
    assert "+0.0000" in result.stdout
    result = CliRunner().invoke(app, ["info", str(tmp_path / "one")])
    assert "2 mm: 0." in result.stdout
    labels = str(phantom_dataset / "labelsTr")
    result = CliRunner().invoke(app, ["score", labels, labels, "-o", str(tmp_path / "scores")])
    assert "5th percentile" in result.stdout


def test_an_error_is_printed_once_without_a_traceback(tmp_path):
    result = rare("info", tmp_path / "none")
    assert result.returncode == 3
    assert result.stdout == ""
    expected = "a path, or a built-in model: hippocampus, hippocampus-paper"
    assert result.stderr == f"Error: no such file or folder\n  path: {tmp_path / 'none'}\n  expected: {expected}\n"
    assert "Traceback" in rare("--debug", "info", tmp_path / "none").stderr


def test_info_knows_everything(scan, phantom_dataset, prepared, run, bundle, tmp_path):
    def facts(*arguments):
        result = CliRunner().invoke(app, ["info", "--json", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert facts(scan)["spacing"] == "2 x 2 x 2 mm"
    assert facts(scan, "-m", run)["route"].startswith("depth 1 of Phantoms")
    assert facts(scan, "-m", bundle)["orientation"] == "LPS"
    assert facts(phantom_dataset)["cases"] == "8, phantom_000 to phantom_007"
    assert facts(prepared)["routing plan"] == ["depth 0: 8 cases", "depth 1: 0 cases", "depth 2: 0 cases", "depth 3: 0 cases"]
    assert facts(run)["training"] == "2 of 2 epochs, fold 0, targets centred"
    assert facts(bundle)["files"] == "all match the manifest"
    assert len(facts(bundle)["engines"]) == 4
    assert facts(run / "best.safetensors")["kind"] == "weights of a run, best.safetensors"
    assert facts(phantom_dataset / "imagesTr") == {
        "kind": "folder of scans",
        "cases": "8, phantom_000 to phantom_007",
        "files per case": "1",
    }
    with Predictor(run) as predictor:
        predict([phantom_dataset / "imagesTr"], predictor, tmp_path / "out", PredictOptions(entry=(3, 3, 3)))
    assert facts(tmp_path / "out")["routes"] == ["depth 3: 8 cases"]
    score(phantom_dataset / "labelsTr", tmp_path / "out", tmp_path / "scores")
    assert facts(tmp_path / "scores")["by depth"][0].startswith("depth 3: ")
    plain = CliRunner().invoke(app, ["info", str(scan)])
    assert "kind " in plain.stdout


def test_depths_may_be_a_list_or_repeated(run, tmp_path):
    for index, depths in enumerate((["--depths", "2,3"], ["--depths", "2", "--depths", "3"])):
        result = CliRunner().invoke(app, ["export", str(run), "-o", str(tmp_path / str(index)), *depths])
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in (tmp_path / str(index)).glob("*.onnx")) == ["entry_2_2_2.onnx", "entry_3_3_3.onnx"]


def test_the_version_is_shown():
    assert rare("--version").stdout.startswith("rare ")


def test_json_that_rare_did_not_write_is_a_data_error(tmp_path, phantom_dataset):
    (tmp_path / "summary.json").write_text('{"mean": {}}')
    with pytest.raises(DataError, match="did not write"):
        info(tmp_path)
    shutil.copytree(phantom_dataset / "labelsTr", tmp_path / "labels")
    (tmp_path / "labels" / "predictions.json").write_text("[]")
    result = rare("score", phantom_dataset / "labelsTr", tmp_path / "labels", "-o", tmp_path / "out", "--no-surface")
    assert result.returncode == 3
    assert "not written by rare predict" in result.stderr


def test_int8_keeps_stdout_for_the_result(bundle, scan, tmp_path):
    if "INT8" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute with int8")
    result = rare("predict", scan, "-m", bundle, "-o", tmp_path / "labels.nii.gz", "--precision", "int8", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["cases"]["scan"]["entry"] == [1, 1, 1]
