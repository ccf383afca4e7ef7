"""`--freeze encoder`: the weights on the way down keep the values of the model that the training starts from, to the bit."""

import shutil

import numpy as np
import pytest
from oracle import listener
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from rarecli.cli import app
from rarecli.core.benchmarking.suites import write_random_run
from rarecli.core.config.run_folder import load_run_info, save_run_info
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.training.startup import make_spec
from rarecli.core.training.train import TrainOptions, train

TINY = {"num_filters": 4, "num_depths": 3, "epochs": 1, "num_folds": 4, "freeze": "encoder"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    write_phantoms(root / "data", range(4), extent_mm=(16.0, 16.0, 16.0))
    preprocess(root / "data", root / "prepared", PreprocessOptions(num_levels=3, num_jobs=1))
    return root / "prepared"


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A model with random weights."""
    output = tmp_path_factory.mktemp("small") / "run"
    write_random_run(make_spec(open_prepared(prepared), load_train_config(overrides=TINY)), output)
    return output


def is_encoder(name):
    return name.split(".")[0] in ("encoder", "bottleneck")


def require_only_the_rest_changed(before, after):
    for name, tensor in before.items():
        assert np.array_equal(tensor, after[name]) == is_encoder(name), name


@pytest.mark.parametrize(
    "optimiser", [{}, {"optimiser.kind": "sgd", "optimiser.weight_decay": 0.1, "ema_decay": 0.5}], ids=["adamw", "sgd"]
)
def test_weights_on_the_way_down_stay_to_the_bit(run, prepared, tmp_path, optimiser):
    """Neither weight decay nor momentum nor averaging changes them; gateways, decoder and heads learn."""
    before = load_file(run / "weights.safetensors")
    config = load_train_config(overrides=TINY | optimiser)
    train(prepared, tmp_path / "fine", config, TrainOptions(device="cpu", init=run))
    require_only_the_rest_changed(before, load_file(tmp_path / "fine" / "weights.safetensors"))
    state = load_file(tmp_path / "fine" / "last.safetensors")
    require_only_the_rest_changed(before, {name.removeprefix("network."): value for name, value in state.items()})
    assert not [name for name in state if name.startswith("optimiser.") and is_encoder(name.removeprefix("optimiser."))]


def test_a_resumed_training_keeps_them_too(run, prepared, tmp_path):
    train(prepared, tmp_path / "fine", load_train_config(overrides=TINY), TrainOptions(device="cpu", init=run))
    shutil.copytree(tmp_path / "fine", tmp_path / "resumed")
    longer = load_train_config(overrides=TINY | {"epochs": 2, "optimiser.schedule": "constant"})
    with pytest.raises(UsageError, match="another configuration"):
        train(prepared, tmp_path / "resumed", longer, TrainOptions(device="cpu", resume=True))
    train(prepared, tmp_path / "resumed", load_train_config(overrides=TINY | {"epochs": 2}), TrainOptions(device="cpu", resume=True))
    require_only_the_rest_changed(load_file(run / "weights.safetensors"), load_file(tmp_path / "resumed" / "weights.safetensors"))


def test_random_weights_are_never_frozen(run, prepared, tmp_path):
    config = load_train_config(overrides=TINY)
    with pytest.raises(UsageError, match="random weights would be frozen"):
        train(prepared, tmp_path / "a", config, TrainOptions(device="cpu"))
    tensors = load_file(run / "weights.safetensors")
    other = shutil.copytree(run, tmp_path / "other")
    tensors.pop("encoder.1.0.weight")
    save_file(tensors, other / "weights.safetensors")
    with pytest.raises(ModelError, match="a frozen weight would stay random") as caught:
        train(prepared, tmp_path / "b", config, TrainOptions(device="cpu", init=other))
    assert "encoder.1.0.weight" in str(caught.value)


def test_a_model_of_scans_prepared_otherwise_is_told_and_taken(run, prepared, tmp_path):
    other, said = shutil.copytree(run, tmp_path / "other"), []
    info = load_run_info(other)
    plan = info.spec.plan.model_copy(update={"crop": "nonzero"})
    save_run_info(other, info.model_copy(update={"spec": info.spec.model_copy(update={"plan": plan})}))
    train(prepared, tmp_path / "fine", load_train_config(overrides=TINY), TrainOptions(device="cpu", init=other), listener(said))
    assert any(text.endswith("crop nonzero there and none here") for text in said)


def test_the_option_is_part_of_the_configuration(run, prepared, tmp_path):
    words = ["train", str(prepared), "-o", str(tmp_path / "fine"), "--init", str(run), "--freeze", "encoder", "--epochs", "1"]
    words += ["--set", "num_filters=4", "--set", "num_depths=3", "--set", "num_folds=4", "--device", "cpu", "--no-report"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert load_run_info(tmp_path / "fine").config.freeze == "encoder"
    result = CliRunner().invoke(app, ["train", str(prepared), "-o", str(tmp_path / "x"), "--freeze", "encoder"])
    assert isinstance(result.exception, UsageError)
