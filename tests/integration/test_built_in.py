"""The built-in models: small enough, complete, usable by name, and unchanged."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rarecli import Phantom, Predictor
from rarecli.core.engines.model_files import built_in_models, find_model
from rarecli.core.imaging.volume import write_image
from rarecli.core.info.info import info
from rarecli.core.model import build_network

GOLDEN = Path(__file__).parents[1] / "golden"
KEPT = json.loads((GOLDEN / "built_in.json").read_text())
MEASURE = runpy.run_path(str(GOLDEN / "built_in.py"))
NAMES = sorted(built_in_models())


def test_the_golden_file_knows_every_model():
    assert NAMES
    assert sorted(KEPT) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_model_stays_deployable(name):
    files = list(built_in_models()[name].rglob("*"))
    assert sum(file.stat().st_size for file in files if file.is_file()) < 16e6  # 13 MB of weights, up to 22 engines, their vectors
    network = build_network(find_model(Path(name)).spec.network)
    assert sum(parameter.numel() for parameter in network.parameters()) < 7.5e6
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, 32, 64, 32))
    assert counter.get_total_flops() < 20e9


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_model_has_a_card_with_data_licence_and_limits(name):
    card = (built_in_models()[name] / "README.md").read_text()
    for word in ("CC-BY-SA 4.0", "MSD Task04", "Not a medical device", "seed", "| full | 1/2 | 1/4 | 1/8 |"):
        assert word in card


OF_22_ENTRIES = pytest.mark.slow
"""Each backend takes half a minute for them; one is tested by default."""
VERIFIED = [("hippocampus-paper", backend) for backend in ("torch", "onnx", "openvino")] + [("hippocampus", "openvino")]
VERIFIED += [pytest.param("hippocampus", backend, marks=OF_22_ENTRIES) for backend in ("torch", "onnx")]


@pytest.mark.parametrize(("name", "backend"), VERIFIED)
def test_a_built_in_model_passes_its_conformance_vectors(name, backend):
    manifest = find_model(Path(name)).bundle.manifest
    verified = info(Path(name), verify=True, backend=backend)["verified"]
    assert len(verified) == len(manifest.conformance) + len(manifest.engines)  # a vector, and a large image for every engine
    assert len(manifest.conformance) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_phantom_is_segmented_as_when_the_model_was_made(name):
    for found, kept in zip(MEASURE["voxels_of"](name), KEPT[name]["phantom_voxels"], strict=True):
        assert sum(found) == sum(kept)
        assert all(abs(now - then) <= max(2, 0.01 * then) for now, then in zip(found, kept, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_eight_training_cases_score_what_they_scored(name):
    if not MEASURE["DATASET"].is_dir():
        assert not os.environ.get("CI"), "CI must have the dataset beside the checkout"
        pytest.skip("no dataset beside the checkout")
    assert MEASURE["dice_of"](name) == pytest.approx(KEPT[name]["dice"], abs=0.002)


def test_the_command_line_takes_a_name(tmp_path):
    scan, _ = Phantom(0).acquire(2.0)
    write_image(tmp_path / "scan.nii.gz", scan.data[0], scan)
    arguments = ["predict", tmp_path / "scan.nii.gz", "-m", NAMES[0], "-o", tmp_path / "labels.nii.gz", "--json"]
    result = subprocess.run([sys.executable, "-m", "rarecli", *arguments], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(result.stdout)["cases"]["scan"]["entry"] == [1, 1, 1]
    assert info(Path(NAMES[0]))["kind"] == "built-in model, a bundle"


def test_a_path_goes_before_a_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAMES[0]).symlink_to(run)
    with Predictor(NAMES[0], device="cpu") as predictor:
        assert predictor.runner.backend == "torch"
