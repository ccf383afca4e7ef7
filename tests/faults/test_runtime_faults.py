"""Faults that need a model: constant and thin scans, unusual names, wrong engines, a bad case among good ones."""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rarecli import Phantom, Predictor
from rarecli.core.config.run_folder import load_run_spec
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.parity import check_parity
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import DataError, ModelError, SomeCasesFailed
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.model import build_network
from rarecli.core.prediction.predict import predict
from rarecli.core.training.train import TrainOptions, train


@pytest.fixture(scope="module")
def predictor(bundle):
    with Predictor(bundle, backend="onnx") as loaded:
        yield loaded


def rare(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "rarecli", *arguments], capture_output=True, text=True, check=False, **options)


def write_scan(path, seed=0, spacing=8.0):
    scan, _ = Phantom(seed).acquire(spacing)
    write_image(path, scan.data[0], scan)


def test_fault_10_another_number_of_channels_than_the_model_s(predictor):
    """Refused, with both numbers, by a model trained for a different number."""
    with pytest.raises(ModelError) as caught:
        predictor.predict(np.zeros((2, 8, 8, 8)), np.eye(4))
    assert "found: 2" in str(caught.value)
    assert "expected: 1" in str(caught.value)


def test_fault_12_more_than_255_classes_do_not_wrap(tmp_path):
    """A thousand labels are read from a file as they were written."""
    labels = np.arange(1000, dtype=np.int64).reshape(10, 10, 10)
    nib.save(nib.Nifti1Image(labels, np.eye(4), dtype=np.int64), tmp_path / "a.nii")
    scan, _ = Phantom(0).acquire(3.2)
    write_labels(tmp_path / "b.nii", np.asarray(nib.load(tmp_path / "a.nii").dataobj), scan)
    found = nib.load(tmp_path / "b.nii")
    assert found.get_data_dtype() == np.uint16
    assert np.array_equal(found.get_fdata(), labels)


def test_fault_25_a_case_with_empty_labels_is_trained_on(tmp_path):
    """Training accepts the case."""
    write_phantoms(tmp_path / "data", range(4), extent_mm=(16.0, 16.0, 16.0))
    for seed in (0, 1):
        path = tmp_path / "data" / "labelsTr" / f"phantom_{seed:03d}.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(num_levels=2, num_jobs=1))
    overrides = {"num_filters": 2, "num_depths": 2, "epochs": 1, "num_folds": 2, "foreground_share": 1.0}
    train(tmp_path / "prepared", tmp_path / "run", load_train_config(overrides=overrides), TrainOptions(device="cpu"))
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert all(np.isfinite(value) for value in json.loads(line).values() if isinstance(value, float))


@pytest.mark.parametrize("value", [0.0, -7.5, 3e38])
def test_fault_26_a_constant_scan_is_predicted(predictor, value):
    """Predicted, with finite probabilities."""
    found = predictor.predict(np.full((32, 32, 32), value, np.float32), np.eye(4), probabilities=True)
    assert np.isfinite(found.probabilities).all()
    assert set(np.unique(found.labels)) <= {0, 1, 2}


def test_fault_27_a_class_that_is_in_neither_is_counted(predictor, tmp_path):
    """The summary states the number of cases where a class was in neither."""
    write_phantoms(tmp_path / "data", range(3), 8.0)
    path = tmp_path / "data" / "labelsTr" / "phantom_001.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    summary = evaluate(tmp_path / "data", predictor, tmp_path / "out", EvaluateOptions(depths=[0], upsampled=False, surface=False))
    (depth,) = summary["per_depth"].values()
    found = [case["metrics"]["head"] for case in summary["metric_per_case"]]
    assert depth["both_empty"]["head"] == sum(head["n_ref"] == head["n_pred"] == 0 for head in found)
    assert [head["n_ref"] == 0 for head in found] == [False, True, False]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 33, 40), (40, 2, 1), (31, 31, 31), (3, 3, 3)])
def test_fault_28_a_scan_that_is_thin_or_small_is_predicted(predictor, shape):
    """Predicted; labels have the scan's shape."""
    assert predictor.predict(np.random.default_rng(0).random(shape), np.eye(4)).labels.shape == shape


NAMES = ["a b", "Fall-ü 日本", "-rf", "--output", "a'b\"c", "%s{}[bold]", os.fsdecode(b"not-utf-8-\xff")]


def test_fault_31_unusual_names_are_predicted_and_scored(bundle, tmp_path):
    """Predicted and scored from the command line, even if a name is not Unicode."""
    write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "in").mkdir()
    for name in NAMES:
        shutil.copy(tmp_path / "scan.nii.gz", tmp_path / "in" / f"{name}.nii.gz")
    result = rare("predict", "-m", str(bundle), "-o", "out", "--json", "--backend", "onnx", "in", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["cases"].keys() == set(NAMES)
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in NAMES}
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"].keys() == set(NAMES)
    result = rare("predict", "-m", str(bundle), "-o", "-1.nii.gz", "--backend", "onnx", "--", "-rf.nii.gz", cwd=tmp_path / "in")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "in" / "-1.nii.gz").is_file()
    (tmp_path / "in" / "-1.nii.gz").unlink()
    (tmp_path / "in" / f"{NAMES[0]}.nii.gz").write_bytes(b"broken")
    result = rare("predict", "-m", str(bundle), "-o", "out", "--resume", "--backend", "onnx", "in", cwd=tmp_path)
    assert result.returncode == 6, result.stderr
    assert "a b  the file is not what its name says" in result.stderr
    result = rare("score", "out", "out", "-o", "scores", "--no-surface", cwd=tmp_path)
    assert "bug" not in result.stderr
    assert result.returncode in (0, 3), result.stderr  # 3: there may be nothing but background


def test_fault_31_a_dataset_of_names_that_are_no_unicode_is_refused(tmp_path):
    """For training, names that are not Unicode or contain a line break are refused."""
    for name in (os.fsdecode(b"not-utf-8-\xff"), "two\nlines"):
        for folder in ("images", "labels"):
            write_scan(tmp_path / ascii(name) / folder / f"{name}.nii.gz")
        with pytest.raises(DataError, match="invalid characters") as caught:
            open_dataset(tmp_path / ascii(name))
        assert ascii(name) in str(caught.value)


def test_fault_50_an_engine_that_answers_background_fails_the_gate(run):
    """The parity gate fails, although nearly all voxels agree."""
    spec = load_run_spec(run)
    network = build_network(spec.network).eval()

    def background(image):
        logits = np.zeros((image.shape[0], 3, *image.shape[2:]), np.float32)
        logits[:, 0] = 1
        return logits

    with TorchRunner(network, "cpu", spec.entries) as reference, pytest.raises(ModelError, match="does not agree with PyTorch"):
        check_parity("entry_0_0_0.onnx", {"onnx": background}, spec, (0, 0, 0), "fp16", reference)


def test_fault_50_weights_beyond_fp16_write_nothing(run, tmp_path):
    """An fp16 export of weights that fp16 cannot hold fails the gate, and nothing is written; fp32 holds them."""
    large = shutil.copytree(run, tmp_path / "run")
    weights = load_file(large / "weights.safetensors")
    name = next(name for name, tensor in weights.items() if name.startswith("encoder") and tensor.ndim == 5)
    weights[name] *= 1e7 / weights[name].abs().max()  # the instance norm that follows removes the factor again
    save_file(weights, large / "weights.safetensors")
    with pytest.raises(ModelError, match="does not agree with PyTorch"):
        export(large, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0)], precision="fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    export(large, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0)]))


def test_fault_52_one_bad_case_does_not_stop_the_others(predictor, tmp_path):
    """The others are written; exit code 6, with a table of the failed cases and the reasons."""
    for seed, name in enumerate("abc"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz", seed)
    (tmp_path / "in" / "b.nii.gz").write_bytes((tmp_path / "in" / "a.nii.gz").read_bytes()[:100])
    with pytest.raises(SomeCasesFailed, match="1 of 3 cases failed") as caught:
        predict([tmp_path / "in"], predictor, tmp_path / "out")
    assert caught.value.exit_code == 6
    assert "\n  b  the compressed file is broken; found " in str(caught.value)
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (record["cases"].keys(), record["failed"].keys()) == ({"a", "c"}, {"b"})


def test_fault_52_a_bug_in_one_case_does_not_stop_the_others(predictor, tmp_path, monkeypatch):
    """Unexpected errors and too little memory do not stop the other cases either."""
    for name in "abc":
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    errors = iter([None, ZeroDivisionError("by 0"), MemoryError()])
    real = predictor.segment

    def fail_in_turn(*arguments, **options):
        if error := next(errors):
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(predictor, "segment", fail_in_turn)
    with pytest.raises(SomeCasesFailed, match="2 of 3 cases failed") as caught:
        predict([tmp_path / "in"], predictor, tmp_path / "out")
    assert "b  this is a bug in rare: ZeroDivisionError: by 0" in str(caught.value)
    assert "c  the case needs more memory than is available" in str(caught.value)
