import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from oracle import listener
from safetensors.numpy import load_file, save_file

from rarecli import Predictor
from rarecli.core.config.calibration import CALIBRATION, load_calibration
from rarecli.core.config.run_folder import load_run_info, save_run_info
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.evaluation.calibrate import calibrate
from rarecli.core.prediction.postprocessing_choice import LEAST_GAIN
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import ModelChoice


@pytest.fixture
def own_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_a_run_learns_the_ranges_of_its_training_labels(own_run, phantom_dataset):
    found = calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    split = json.loads((own_run / "run.json").read_text())["split"]
    labels = [np.asarray(nib.load(phantom_dataset / "labelsTr" / f"{name}.nii.gz").dataobj) for name in split["train"]]
    for value, name in ((1, "head"), (2, "tail")):
        volumes = [int((one == value).sum()) for one in labels]  # voxels of 1 mm3
        assert found.labels[name].volume_mm3 == (min(volumes), max(volumes))
    assert found.num_cases == len(split["val"])
    assert load_calibration(own_run) == found
    assert found.postprocessing is not None
    for chosen in found.postprocessing.values():
        assert chosen.steps.num >= 1
        assert chosen.dice_with > chosen.dice_without + chosen.steps.num * LEAST_GAIN


def test_five_percent_of_the_held_out_predictions_are_doubted(own_run, phantom_dataset):
    least = calibrate(phantom_dataset, ModelChoice((own_run,), "cpu")).least_confidence
    names = json.loads((own_run / "run.json").read_text())["split"]["val"]
    with Predictor(own_run, device="cpu") as predictor:
        assert predictor.calibration is not None
        native = [predictor.predict(phantom_dataset / "imagesTr" / f"{name}.nii.gz").confidence for name in names]
    means = [np.mean([value for value in one if value is not None]) for one in native]
    assert max(means) > least


@pytest.mark.slow
def test_a_bundle_takes_the_calibration_over(own_run, phantom_dataset, tmp_path):
    found = calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    export(own_run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)], check=False))
    assert load_calibration(tmp_path / "bundle") == found.model_copy(update={"weights_sha256": None})  # its weights stay


@pytest.mark.parametrize("trained_on", ["run", "best"])
def test_a_calibration_of_other_weights_is_not_used(own_run, phantom_dataset, tmp_path, trained_on):
    model = own_run if trained_on == "run" else own_run / "best.safetensors"
    calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    changed = own_run / ("weights.safetensors" if trained_on == "run" else "best.safetensors")
    weights = load_file(changed)
    save_file({name: value + 1e-3 for name, value in weights.items()}, changed)
    shutil.copy(phantom_dataset / "imagesTr" / "phantom_000.nii.gz", tmp_path / "a.nii.gz")
    said = []
    told = predict([tmp_path / "a.nii.gz"], ModelChoice((model,), "cpu"), tmp_path / "b.nii.gz", reporter=listener(said))
    assert not told["calibrated"]
    assert "calibration.json is of other weights and is not used; run rare calibrate DATASET -m RUN --overwrite" in said
    with pytest.raises(UsageError, match="of other weights"):
        predict([tmp_path / "a.nii.gz"], ModelChoice((model,), "cpu"), tmp_path / "c.nii.gz", PredictOptions(postprocess=True))


@pytest.mark.slow
def test_a_bundle_does_not_take_over_a_calibration_of_other_weights(own_run, phantom_dataset, tmp_path):
    calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    weights = load_file(own_run / "weights.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, own_run / "weights.safetensors")
    said = []
    export(own_run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)], check=False), listener(said))
    assert load_calibration(tmp_path / "bundle") is None
    assert any("so the bundle has none" in text for text in said)


@pytest.mark.parametrize("held_out", [True, False])
def test_cases_of_the_training_are_refused(own_run, phantom_dataset, held_out):
    info = load_run_info(own_run)
    if not held_out:  # as with --fold all
        info = info.model_copy(update={"split": {"train": sorted(info.split["train"] + info.split["val"]), "val": []}})
        save_run_info(own_run, info)
    trained = info.split["train"][-1]
    with pytest.raises(UsageError, match="the run was trained on cases of the list") as caught:
        calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"), names=[*info.split["val"], trained])
    assert f"found: {trained}" in str(caught.value)
    if not held_out:
        with pytest.raises(UsageError, match="the run held out no cases"):
            calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))


def test_what_cannot_be_calibrated_is_refused(own_run, phantom_dataset):
    with pytest.raises(ModelError, match="only a run records"):
        calibrate(phantom_dataset, ModelChoice((Path("hippocampus"),), "cpu"))
    with pytest.raises(UsageError, match="several models"):
        calibrate(phantom_dataset, ModelChoice((own_run, own_run), "cpu"))
    (own_run / CALIBRATION).write_text("{}")
    with pytest.raises(ModelError, match="calibration"):
        calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    (own_run / CALIBRATION).unlink()
    calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
    with pytest.raises(UsageError, match="output exists"):
        calibrate(phantom_dataset, ModelChoice((own_run,), "cpu"))
