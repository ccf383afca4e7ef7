"""`rare demo` in its own process keeps the promises of the README."""

import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from rarecli.commands.schemas import schemas


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_keeps_its_promises(tmp_path):
    command = [sys.executable, "-m", "rarecli", "demo", "-o", str(tmp_path / "demo"), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    demo = json.loads(result.stdout)
    Draft202012Validator(schemas()["demo"]).validate(demo)
    rows = {row["resolution"]: row for row in demo["rows"]}
    assert [row["depth"] for row in rows.values()] == [0, 1, 2, 3]
    # the phantom is hard: no threshold finds the tube
    assert all(row["threshold"] < 0.5 for row in rows.values())
    # and routing pays off
    assert rows["1 mm"]["routed"] > 0.8
    assert rows["4 mm"]["routed"] - rows["4 mm"]["upsampled"] >= 0.05
    assert rows["8 mm"]["routed"] - rows["8 mm"]["upsampled"] >= 0.15
    assert rows["8 mm"]["onnx_ms"] < rows["1 mm"]["onnx_ms"] / 4
    for made in ("run/progress.png", "evaluation/dice_over_resolution.png", "timing/latency.png", "bundle/manifest.json", "demo.json"):
        assert (tmp_path / "demo" / made).stat().st_size > 500
