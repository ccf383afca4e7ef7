"""Small things to run commands on: four phantoms of 8 mm, what they become, and `rare` in this process."""

import shutil
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from rarecli.cli import main
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.training.train import TrainOptions, train

TINY = {"num_filters": 2, "num_depths": 2, "epochs": 1, "num_folds": 2}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.splitlines()[-1]


@pytest.fixture
def rare(monkeypatch, capsys):
    """Returns a function that runs `rare ARGUMENTS` as the shell does, but in this process, which saves its imports."""
    # the command sets both for its process
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["rare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("small") / "Phantoms"
    write_phantoms(root, range(4), 8.0)
    return root


@pytest.fixture(scope="session")
def small_prepared(dataset, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("small") / "prepared"
    preprocess(dataset, output, PreprocessOptions(num_jobs=1, num_levels=2))
    return output


@pytest.fixture(scope="session")
def small_run(small_prepared, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("small") / "run"
    train(small_prepared, output, load_train_config(overrides=dict(TINY)), TrainOptions(device="cpu"))
    return output


@pytest.fixture(scope="session")
def small_bundle(small_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("small") / "bundle"
    export(small_run, output, ExportOptions(check=False))
    return output


@pytest.fixture(scope="session")
def scan(dataset) -> Path:
    return dataset / "imagesTr" / "phantom_000.nii.gz"


@pytest.fixture
def broken_dataset(dataset, tmp_path) -> Path:
    """The first of its four scans is no scan."""
    root = shutil.copytree(dataset, tmp_path / "broken")
    (root / "imagesTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    return root
