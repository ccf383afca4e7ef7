import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import ndimage

from rarecli import Predictor, dice
from rarecli.core.config.geometry import isotropic
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.open_model import open_model
from rarecli.core.errors import UsageError
from rarecli.core.training.startup import make_spec, require_known_metric
from rarecli.core.training.validation import epochs_between, validate


def majority(shares):
    """The class with the most volume, of equal ones that with more volume around."""
    around = np.stack([ndimage.uniform_filter(share, 3, mode="nearest") for share in shares])
    return (shares + 1e-5 * around).argmax(axis=0)


def test_the_dice_is_that_of_predicted_scans(run, prepared, phantom_dataset):
    """Scans averaged over 2^k voxels are written and predicted; their labels are compared with the metric of the Python API."""
    names = ["phantom_000", "phantom_003"]
    rules, runner = open_model(run, "torch", "cpu")
    spec = rules.spec
    found = validate(runner, open_prepared(prepared), spec, names)
    expected = {}
    with Predictor(run, device="cpu", backend="torch") as predictor:
        for depth in range(4):
            step, values = 2**depth, []
            for name in names:
                scan, labels = (nib.load(phantom_dataset / folder / f"{name}.nii.gz").get_fdata() for folder in ("imagesTr", "labelsTr"))
                split = [part for size in scan.shape for part in (size // step, step)]
                coarse = scan.astype(np.float32).reshape(split).mean(axis=(1, 3, 5))
                shares = np.stack([(labels == value).reshape(split).mean(axis=(1, 3, 5)) for value in range(3)])
                prediction = predictor.predict(coarse, np.diag([step, step, step, 1.0]))
                assert prediction.entry == isotropic(depth)
                values.append(dice(prediction.labels, majority(shares), num_classes=3)[1:].mean())
            expected[f"dice_depth{depth}"] = np.mean(values)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-3)  # single voxels where two classes are nearly equal
    assert found["dice_mean"] == pytest.approx(np.mean([found[name] for name in expected]))


def test_a_class_that_no_held_out_case_has_leaves_the_mean(run, prepared, tmp_path):
    """A network that never predicts it would be right about it in every case."""
    copy = shutil.copytree(prepared, tmp_path / "prepared")
    index = json.loads((copy / "prepared.json").read_text())
    names = ["phantom_000", "phantom_003"]
    for record in index["cases"]:
        if record["name"] in names:
            path = copy / "cases" / f"{record['name']}.safetensors"
            arrays = load_file(path)
            arrays["labels"] = np.where(arrays["labels"] == 2, 0, arrays["labels"]).astype(np.uint8)
            save_file(arrays, path)
            record["voxels_per_class"] = np.bincount(arrays["labels"].ravel(), minlength=3).tolist()
    (copy / "prepared.json").write_text(json.dumps(index))
    dataset = open_prepared(copy)
    rules, runner = open_model(run, "torch", "cpu")
    spec = rules.spec
    found = validate(runner, dataset, spec, names)
    assert "dice_tail" not in found
    assert found["dice_mean"] == pytest.approx(found["dice_head"])
    config = load_train_config(overrides={"monitor": "dice_tail"})
    with pytest.raises(UsageError, match="no such metric"):
        require_known_metric(config, spec, dataset, names)


def test_validation_takes_at_most_a_fifth_of_the_time(tmp_path):
    """Cases of 64^3 in patches of 32^3: a validation sees 27 windows of each case, an epoch one patch, three times."""
    write_phantoms(tmp_path / "data", range(5), extent_mm=(64.0, 64.0, 64.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32)))
    dataset = open_prepared(tmp_path / "prepared")
    spec = make_spec(dataset, load_train_config())
    names = list(dataset.records)
    assert epochs_between(dataset, spec, names[:4], names[4:]) == 4 * 27 / (4 * 3)
    assert epochs_between(dataset, spec, names[:4], []) == 1
