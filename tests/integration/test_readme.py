"""Every bash and python block of the README and of docs/usage.md runs, in order, in one folder; phantoms stand in for the scans."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from rarecli.core.data.phantoms import write_phantoms

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a dozen trainings, predictions and exports one after the other
def test_the_readme_runs(tmp_path):
    data = tmp_path / "Task04_Hippocampus"
    write_phantoms(data, range(1, 11), extent_mm=(35.0, 50.0, 35.0))
    for file in [*data.rglob("*.nii.gz"), data / "dataset.json"]:
        if file.suffix == ".json":
            file.write_text(file.read_text().replace("phantom_", "hippocampus_"))
        else:
            file.rename(file.with_name(file.name.replace("phantom_", "hippocampus_")))
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/usage.md"))
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    commands = set()
    for language, block in blocks:
        if language == "python":
            result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            assert result.stdout.startswith("(0, 0, 0) spacing 1 mm, grid 1 mm (35, 50, 35)\n")
            continue
        for line in block.strip().splitlines():
            command = line.replace("rare ", f"{sys.executable} -m rarecli ", 1)
            # the only change is a shorter training
            command = command.replace("--epochs 10", "--epochs 1 --num-filters 4")
            result = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{line}\n{result.stderr}"
            assert "Traceback" not in result.stderr
            commands.add(line.split()[1])
    assert commands == {"info", "models", "preprocess", "train", "evaluate", "predict", "score", "export", "benchmark"}
    assert nib.load(tmp_path / "labels.nii.gz").shape == (35, 50, 35)
    assert (tmp_path / "scores" / "dice_over_resolution.png").exists()
