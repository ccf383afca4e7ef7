"""Thick slices through the whole chain, from the shell: each axis enters where it belongs, from training to prediction."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from rarecli import Phantom
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.imaging.volume import write_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NETWORK = ["num_filters=4", "num_depths=3", "num_folds=2", "thick_views=2", "any_size=true", "augmentation.spacing_octaves=0.5"]


def rare(*words):
    done = subprocess.run([sys.executable, "-m", "rarecli", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder with phantoms, a run that was trained on thick views of them, and its bundle."""
    folder = tmp_path_factory.mktemp("thick")
    write_phantoms(folder / "phantoms", range(6))
    rare("preprocess", folder / "phantoms", "-o", folder / "prepared")
    settings = [word for setting in [*NETWORK, "epochs=4", "validate_every=1"] for word in ("--set", setting)]
    rare("train", folder / "prepared", "-o", folder / "run", *settings, "--device", "cpu", "--no-amp")
    entries = "0,0,0;1,1,1;0,0,1;0,0,2;2,0,0"
    rare("export", folder / "run", "-o", folder / "bundle", "--entries", entries)
    return folder


def test_the_training_validates_thick_slices(chain):
    lines = [json.loads(line) for line in (chain / "run" / "log.jsonl").read_text().splitlines()]
    assert all({"loss_thick", "dice_thick", "dice_depth0"} <= line.keys() for line in lines)
    assert lines[-1]["loss_thick"] < lines[0]["loss_thick"]


@pytest.mark.parametrize(
    ("spacing", "entry", "resampled"),
    [((1, 1, 4), [0, 0, 2], ""), ((1, 1, 2.6), [0, 0, 1], ""), ((4, 1, 1), [2, 0, 0], ""), ((1, 4, 1), [0, 0, 0], "along y")],
)
def test_a_scan_enters_where_its_axes_belong_and_keeps_its_grid(chain, tmp_path, spacing, entry, resampled):
    scan, _ = Phantom(40, (33.0, 40.0, 37.0)).acquire(spacing, "LPS")
    write_image(tmp_path / "scan.nii.gz", scan.data[0], scan)
    answers = []
    for model, backend in (("bundle", "openvino"), ("bundle", "onnx"), ("bundle", "torch")):
        out = tmp_path / f"{backend}.nii.gz"
        done = rare("predict", tmp_path / "scan.nii.gz", "-m", chain / model, "-o", out, "--backend", backend, "--json")
        record = json.loads(done.stdout)["cases"]["scan"]
        assert record["entry"] == entry
        assert (f"resampled {resampled}" in record["reason"]) == bool(resampled)
        labels = nib.load(out)
        assert labels.shape == scan.shape
        np.testing.assert_array_equal(labels.affine, nib.load(tmp_path / "scan.nii.gz").affine)
        answers.append(np.asarray(labels.dataobj))
    for other in answers[1:]:
        assert (other != answers[0]).mean() < 1e-3
    by_finest = rare("predict", tmp_path / "scan.nii.gz", "-m", chain / "run", "-o", tmp_path / "f.nii.gz", "--route", "finest", "--json")
    assert json.loads(by_finest.stdout)["cases"]["scan"]["entry"] == [0, 0, 0]


def test_the_evaluation_has_both_ways_beside_each_other(chain, tmp_path):
    out = tmp_path / "scores"
    done = rare("evaluate", chain / "phantoms", "-m", chain / "run", "-o", out, "--spacings", "1,1x1x4,4x1x1", "--no-surface")
    assert "1x1x4 mm" in done.stdout
    rows = {tuple(row["spacing_mm"]): row for row in json.loads((out / "summary.json").read_text())["thick_slices"]}
    assert rows[1, 1, 4]["entry"] == [0, 0, 2]
    assert rows[4, 1, 1]["slice_axis"] == "x"
    assert all(0 < row["acquired"][method] <= 1 for row in rows.values() for method in ("routed", "upsampled"))
    assert (out / "dice_over_slices.png").is_file()


def test_the_benchmark_times_thick_entries_beside_their_upsampling(chain, tmp_path):
    out = tmp_path / "timing"
    rare("benchmark", chain / "bundle", "-o", out, "--entries", "0,0,0;0,0,1;0,0,2", "--backends", "onnx", "--no-cold-start")
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["method"], row["entry"]) for row in rows] == [
        ("routed", [0, 0, 0]),
        ("routed", [0, 0, 1]),
        ("routed", [0, 0, 2]),
        ("upsampled", [0, 0, 1]),
        ("upsampled", [0, 0, 2]),
    ]
    work = {(row["method"], row["entry"][2]): row["work"]["gflop"] for row in rows}
    assert work["routed", 0] > work["routed", 1] > work["routed", 2]
    assert work["upsampled", 2] == work["routed", 0]
    assert (out / "cost_of_slices.png").is_file()
