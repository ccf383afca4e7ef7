"""A deployer's real environment: a new virtual environment with the wheel and its `cpu` extra, without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.imaging.volume import write_image

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bundle_predicts_in_an_environment_that_has_no_torch(run, bundle, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", f"{ROOT}[cpu]"]
    subprocess.run(install, check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode != 0
    for spacing in (1.0, 2.0, 4.0, 8.0):
        scan, _ = Phantom(11).acquire(spacing, "LAS")
        write_image(tmp_path / "scans" / f"at_{spacing:g}mm.nii.gz", scan.data[0], scan)
    for backend in ("onnx", "openvino"):
        command = [tmp_path / "venv" / "bin" / "rare", "predict", tmp_path / "scans", "-m", bundle, "-o", tmp_path / backend]
        result = subprocess.run([*command, "--backend", backend, "--json"], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert [case["entry"] for case in json.loads(result.stdout)["cases"].values()] == [[depth] * 3 for depth in range(4)]
    # the models in the wheel as well
    command = [tmp_path / "venv" / "bin" / "rare", "predict", tmp_path / "scans", "-m", "hippocampus", "-o", tmp_path / "built_in"]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model"] == "hippocampus"
    with Predictor(run, device="cpu") as predictor:
        for spacing in (1.0, 2.0, 4.0, 8.0):
            expected = predictor.predict(tmp_path / "scans" / f"at_{spacing:g}mm.nii.gz").labels
            for backend in ("onnx", "openvino"):
                found = np.asarray(nib.load(tmp_path / backend / f"at_{spacing:g}mm.nii.gz").dataobj)
                assert (found != expected).mean() < 1e-4
