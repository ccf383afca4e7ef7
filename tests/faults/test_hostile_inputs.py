"""Small files that would need much memory or time: refused from their header, before anything is allocated."""

import gzip
import json
import os
import shutil
import time
import tracemalloc
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from dataset_files import describe
from nifti_files import PIXDIM, SFORM_CODE, SROW, VOX_OFFSET, XYZT, make
from phantom_spec import PLAN

from rarecli import Predictor
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.preprocess_case import prepare_or_fail
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging.resampling import resampled_shape
from rarecli.core.jobs import memory
from rarecli.core.jobs.files import read_json
from rarecli.core.prediction.predict import predict

NO_SFORM = (SFORM_CODE, "h", 0)


def spacing(x, y, z):
    return NO_SFORM, (252, "h", 0), (PIXDIM + 4, "3f", x, y, z)


@pytest.mark.filterwarnings("ignore:.*neither sform nor qform")
@pytest.mark.parametrize(
    "patches",
    [
        [(XYZT, "b", 1)],  # metres: 1000 times too coarse along every axis
        spacing(1e-8, 1e-8, 1e-8),
        spacing(1, 1, 1e-8),
        spacing(300, 1, 1),
        spacing(1e-3, 1e-3, 1e-3),
        spacing(200, 200, 1),
    ],
    ids=["metres", "1e-8", "one axis 1e-8", "one axis 300", "microns", "two axes 200"],
)
def test_a_spacing_far_from_every_grid_is_refused_before_anything_is_allocated(bundle, tmp_path, patches):
    scan = make(tmp_path / "scan.nii", *patches, data=np.random.default_rng(0).random((9, 8, 7), dtype=np.float32))
    with Predictor(bundle, backend="onnx") as predictor:
        tracemalloc.start()
        with pytest.raises(DataError, match="too far from the grid") as caught:
            predictor.predict(scan)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert "unit in the header" in str(caught.value)
    assert peak < 2**20


@pytest.mark.parametrize(
    ("shape", "zoom", "fits"),
    [
        ((16, 16, 16), (16, 16, 16), True),  # 4096 times as many: a scan of 16 mm in a model of 1 mm
        ((16, 16, 16), (16, 16, 17), False),
        ((300, 300, 300), (1 / 256, 1, 1), True),
        ((300, 300, 300), (1 / 257, 1, 1), False),
        ((4, 4, 4), (256, 1, 1), True),
        ((4, 4, 4), (257, 1, 1), False),
    ],
)
def test_bounds_of_growth_by_hand(shape, zoom, fits):
    if fits:
        resampled_shape(shape, zoom)
    else:
        with pytest.raises(DataError, match="too far from the grid"):
            resampled_shape(shape, zoom)


def hollow(path, shape, dtype):
    """A scan of this shape whose voxels take no place on the disk."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), 1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + np.dtype(dtype).itemsize * int(np.prod(shape)))
    return path


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A dataset of one scan that can be read in the machine's 2 GB, and not be predicted or prepared: 600 x 500 x 500 voxels."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**31)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
        hollow(tmp_path / "data" / name / "a.nii", (600, 500, 500), np.uint8)  # 8 bytes a voxel to read, 16 to predict
    files = {"image": "./images/a.nii", "label": "./labels/a.nii"}
    describe(tmp_path / "data", name="x", modality={"0": "MR"}, labels={"0": "background", "1": "head"}, numTraining=1, training=[files])
    return tmp_path / "data"


def refused_for_its_size(action):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more memory than this machine has") as caught:
            action()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert "at most 2.0 GB" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("to_file", [True, False])
def test_fault_19_a_scan_that_does_not_fit_the_memory_is_refused_by_predict(large, bundle, tmp_path, to_file):
    """Refused from the header if its prediction needs more memory than the machine or its container has; both are stated."""
    output = tmp_path / ("out.nii.gz" if to_file else "out")
    with Predictor(bundle, backend="onnx") as predictor:
        refused_for_its_size(lambda: predict([large / "images"], predictor, output))
        refused_for_its_size(lambda: predictor.predict(large / "images" / "a.nii"))
        predictor.require_affordable([large / "images" / "a.nii"], (3, 3, 3), None)  # an eighth along every axis


def test_a_scan_that_does_not_fit_the_memory_is_refused_by_preprocess(large, tmp_path):
    """In the worker, which returns the error of a case."""
    [case] = open_dataset(large).cases
    plan = PLAN.model_copy(update={"spacing_mm": (0.8, 0.8, 0.8)})

    def prepare():
        error = prepare_or_fail(case, plan=plan, folder=tmp_path, kept=())
        if isinstance(error, DataError):
            raise error

    refused_for_its_size(prepare)


def test_a_scan_that_does_not_fit_the_memory_is_refused_by_evaluate(large, bundle, tmp_path, monkeypatch):
    """Evaluate reads a scan to make coarser ones of it, so the scan itself must fit."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**29)
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(DataError, match="more memory than this machine has") as caught:
        evaluate(large, predictor, tmp_path / "out", EvaluateOptions(depths=[3], surface=False))
    assert "at most 0.5 GB" in str(caught.value)


def test_fault_28_a_scan_that_is_long_and_thin_is_refused_by_predict(bundle, tmp_path):
    """A long scan that is thin along two axes is refused from its header: its cost would be that of its padding."""
    scan = hollow(tmp_path / "scan.nii", (32767, 1, 1), np.uint8)
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(DataError, match="too thin for its length"):
        predictor.predict(scan)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{other}'] * 9)}]\n" for other, one in pairwise("abcdefghi")
)


def as_fifo(path):
    os.mkfifo(path)


def as_link_to_zeros(path):
    path.symlink_to("/dev/zero")


def as_folder(path):
    path.mkdir()


@pytest.mark.parametrize(("put", "words"), [(as_fifo, "pipe or a device"), (as_link_to_zeros, "pipe or a device"), (as_folder, "a folder")])
def test_what_is_no_regular_file_is_not_opened(put, words, bundle, tmp_path):
    put(tmp_path / "config.yaml")
    with pytest.raises(UsageError, match=words):
        load_train_config(file=tmp_path / "config.yaml")
    put(tmp_path / "file.json")
    with pytest.raises(DataError, match=words):
        read_json(tmp_path / "file.json")
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    (copy / "manifest.json").unlink()
    put(copy / "manifest.json")
    with pytest.raises(ModelError, match=words):
        load_manifest(copy)


def test_yaml_aliases_that_multiply_are_refused(tmp_path):
    (tmp_path / "bomb.yaml").write_text(BOMB)
    started = time.process_time()
    with pytest.raises(UsageError, match="aliases"):
        load_train_config(file=tmp_path / "bomb.yaml")
    assert time.process_time() - started < 5


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xef\xbb\xbfepochs: 3\n")
    assert load_train_config(file=tmp_path / "config.yaml").epochs == 3
    (tmp_path / "file.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "file.json") == {"a": 1}


WRONG_NUMBERS = {
    "window.overlap": 0.999999,
    "window.sigma": 0,
    "window.min_weight": 0,
    "resampling.min_box_voxels": 1e9,
    "resampling.max_step": 1e9,
    "resampling.max_growth": 1e9,
    "routing.tolerance": -1,
    "routing.rounding_slack": 5,
    "routing.entries": [],
    "routing.by": "coarsest",
    "engines.0.divisors": [0, 16, 16],
    "engines.0.patch_shape": [33, 32, 32],
    "engines.0.min_shape": [64, 64, 64],
    "engines.0.entry": [2**40, 0, 0],
    "engines.0.grid_spacing_mm": [0, 1, 1],
    "engines.0.sha256": "0",
    "spec.plan.normalisation.lower": -1,
    "spec.plan.normalisation.upper": 1000,
    "spec.plan.normalisation": {"kind": "ct", "lower": [0, 0], "upper": [1, 1], "mean": [0, 0], "std": [1, 1]},
}


@pytest.mark.parametrize("key", WRONG_NUMBERS)
def test_every_number_of_a_manifest_has_bounds(key, bundle, tmp_path):
    content = json.loads((bundle / "manifest.json").read_text())
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[last] = WRONG_NUMBERS[key]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="manifest"):
        load_manifest(tmp_path)


def test_a_fraction_of_a_voxel_offset_is_refused(bundle, tmp_path):
    scan = make(tmp_path / "scan.nii", (VOX_OFFSET, "f", 1e-4))
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(DataError, match="header is broken"):
        predictor.predict(scan)


def test_bytes_behind_a_gzip_stream_are_refused_and_zeros_and_further_members_are_read(bundle, tmp_path):
    content = make(tmp_path / "plain.nii", (SROW, "4f", 1.0, 0, 0, -5)).read_bytes()
    packed = gzip.compress(content)
    for name, file, fits in (
        ("zeros", packed + bytes(700), True),
        ("members", gzip.compress(content[:300]) + gzip.compress(content[300:]), True),
        ("garbage", packed + b"q", False),
    ):
        (tmp_path / f"{name}.nii.gz").write_bytes(file)
        with Predictor(bundle, backend="onnx") as predictor:
            if fits:
                assert predictor.predict(tmp_path / f"{name}.nii.gz").labels.shape == (2, 3, 4)
            else:
                with pytest.raises(DataError, match="compressed file is broken"):
                    predictor.predict(tmp_path / f"{name}.nii.gz")
