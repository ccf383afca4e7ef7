"""Data and models shared by many tests, made once: phantoms, a prepared dataset, a briefly trained run, its bundle."""

import sys
from pathlib import Path

import pytest
import torch

from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import export
from rarecli.core.training.train import TrainOptions, train

sys.modules.setdefault("openvino_telemetry", None)  # it would report every test over the network

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
