"""Data and models shared by many tests, made once: phantoms, a prepared dataset, a briefly trained run, its bundle."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.training.train import TrainOptions, train

sys.modules.setdefault("openvino_telemetry", None)  # it would report every test over the network
os.environ["RARE_CACHE"] = "off"  # the user's

TINY = {"num_filters": 4, "epochs": 2, "num_folds": 4, "optimiser.lr": 4e-3}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    torch.set_flush_denormal(False)  # onnxruntime and OpenVINO leave it on in the thread that opens a session


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, range(8))
    return root


@pytest.fixture(scope="session")
def prepared(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "prepared"
    preprocess(phantom_dataset, output, PreprocessOptions(num_jobs=1))
    return output


@pytest.fixture(scope="session")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after two epochs: its labels are poor but not all background."""
    output = tmp_path_factory.mktemp("runs") / "run"
    train(prepared, output, load_train_config(overrides=dict(TINY)), TrainOptions(device="cpu"))
    return output


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "bundle"
    export(run, output)
    return output


@pytest.fixture(scope="session")
def thick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights that takes thick slices of any size, at three depths. About half of its labels are background."""
    spec = random_spec(load_suite("smoke"))
    plan = spec.plan.model_copy(update={"patch_size": (32, 32, 32), "num_levels": 3})
    network = spec.network.model_copy(update={"num_levels": 3, "num_depths": 3})
    learned = {"per_axis": True, "any_size": True, "as_is_octaves": 0.4}
    output = tmp_path_factory.mktemp("runs") / "thick"
    write_random_run(spec.model_copy(update={"plan": plan, "network": network, **learned}), output)
    weights = load_file(output / "weights.safetensors")
    for depth in range(3):  # features have a mean above 0: without this, one class would win everywhere
        weights[f"heads.{depth}.weight"] -= weights[f"heads.{depth}.weight"].mean(axis=1, keepdims=True)
        weights[f"heads.{depth}.bias"] = np.zeros_like(weights[f"heads.{depth}.bias"])
    save_file(weights, output / "weights.safetensors")
    return output


@pytest.fixture(scope="session")
def thick_bundle(thick_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its engines for thick slices, without parity and conformance vectors, which would take longer than all tests that use it."""
    output = tmp_path_factory.mktemp("bundles") / "thick"
    export(thick_run, output, ExportOptions(entries="thick", check=False))
    return output
