import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from upstream_network import UpstreamNetwork, configuration, randomise, save_checkpoint

from rarecli import Phantom, Predictor
from rarecli.core.config.geometry import isotropic
from rarecli.core.config.run_folder import load_run_info
from rarecli.core.convert.convert import convert
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging.volume import read_volume

SMALL = {"in_channels": 1, "num_classes": 3, "n_filters": 4, "depth": 4, "num_gateways": 3}


@pytest.fixture
def upstream(tmp_path):
    network = randomise(UpstreamNetwork(**SMALL)).eval()
    save_checkpoint(tmp_path / "best_model.pth", network, configuration())
    return network


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (SMALL, (32, 64, 32)),
        # the channels reach their limit of 320, and the deepest level has no gateway
        ({"in_channels": 4, "num_classes": 4, "n_filters": 48, "depth": 4, "num_gateways": 2}, (32, 32, 32)),
        ({"in_channels": 2, "num_classes": 2, "n_filters": 4, "depth": 3, "num_gateways": 0}, (16, 16, 32)),
    ],
)
def test_the_logits_are_upstream_s_at_every_depth(tmp_path, sizes, shape):
    network = randomise(UpstreamNetwork(**sizes)).eval()
    save_checkpoint(tmp_path / "best_model.pth", network, configuration(shape=shape))
    convert(tmp_path / "best_model.pth", tmp_path / "run")
    rules, runner = open_model(tmp_path / "run", device="cpu")
    spec = rules.spec
    assert spec.network.num_depths == sizes["num_gateways"] + 1
    with runner, torch.no_grad():
        for depth in range(spec.network.num_depths):
            image = torch.rand(1, sizes["in_channels"], *(size // 2**depth for size in shape))
            expected = network(image, depth).numpy()
            found = runner.run(image.numpy(), isotropic(depth))
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
            assert expected.std() > 0.01  # otherwise all would agree


def test_a_converted_run_predicts_evaluates_and_exports(tmp_path, upstream):
    convert(tmp_path / "best_model.pth", tmp_path / "run")
    info = load_run_info(tmp_path / "run")
    assert info.started_from == "best_model.pth, epoch 57"
    assert (info.spec.name, info.spec.targets, info.spec.plan.patch_size) == ("Task04_Hippocampus", "paper", (32, 64, 32))
    assert (info.spec.plan.fixed_shape, info.spec.network.dropout) == (True, 0.2)
    image, _ = Phantom(3, (16, 32, 16)).acquire(2.0, "LPS")
    with Predictor(tmp_path / "run", device="cpu") as predictor:
        prediction = predictor.predict(image)
        assert prediction.entry == (1, 1, 1)
        write_phantoms(tmp_path / "data", range(1), extent_mm=(32, 64, 32))
        summary = evaluate(tmp_path / "data", predictor, tmp_path / "scores", EvaluateOptions(protocol="paper", surface=False))
    assert len(summary["per_depth"]) == 4
    manifest = export(tmp_path / "run", tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)]))
    assert manifest.spec == info.spec


def test_a_prepared_dataset_gives_the_names(tmp_path, upstream, prepared):
    convert(tmp_path / "best_model.pth", tmp_path / "run", prepared=prepared)
    plan = load_run_info(tmp_path / "run").spec.plan
    assert plan.label_names == ("background", "head", "tail")
    with pytest.raises(UsageError, match="sets spacing and patch"):
        convert(tmp_path / "best_model.pth", tmp_path / "other", prepared=prepared, spacing_mm=(1, 1, 1))
    wrong = UpstreamNetwork(**SMALL | {"num_classes": 5})
    save_checkpoint(tmp_path / "wrong.pth", wrong, configuration())
    with pytest.raises(UsageError, match="other channels or classes"):
        convert(tmp_path / "wrong.pth", tmp_path / "other", prepared=prepared)


def test_the_configuration_may_lie_beside_and_the_folder_be_named(tmp_path, upstream):
    save_checkpoint(tmp_path / "best_model.pth", upstream, None)
    with pytest.raises(UsageError, match="does not state its patch shape"):
        convert(tmp_path / "best_model.pth", tmp_path / "run")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration(shape=(64, 64, 32))))
    convert(tmp_path, tmp_path / "run")
    assert load_run_info(tmp_path / "run").spec.plan.patch_size == (64, 64, 32)


def test_a_distributed_training_s_prefix_is_taken_off(tmp_path, upstream):
    state = {f"module.{name}": value for name, value in upstream.state_dict().items()}
    save_checkpoint(tmp_path / "ddp.pth", upstream, configuration(), model_state_dict=state)
    convert(tmp_path / "ddp.pth", tmp_path / "run")


def test_an_omegaconf_configuration_is_read_and_none_of_its_classes_is_made(tmp_path, upstream, monkeypatch):
    made = []
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self, content):
            self._content = content

        def __setstate__(self, state):
            made.append(state)
            self.__dict__.update(state)

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    config = {name: DictConfig(part) for name, part in configuration().items()}
    save_checkpoint(tmp_path / "omega.pth", upstream, DictConfig(config))
    convert(tmp_path / "omega.pth", tmp_path / "run")
    assert load_run_info(tmp_path / "run").spec.plan.patch_size == (32, 64, 32)
    assert not made


def test_a_pickle_that_would_run_something_does_not(tmp_path, upstream):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    save_checkpoint(tmp_path / "bomb.pth", upstream, configuration(), wandb=Bomb())
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    (tmp_path / "cases" / "images").mkdir(parents=True)
    (tmp_path / "cases" / "masks").mkdir()
    for folder in ("images", "masks"):
        torch.save(Bomb(), tmp_path / "cases" / folder / "a.nii.pt")
    for name, error in (("bomb.pth", ModelError), ("plain.pth", ModelError), ("cases", DataError)):
        with pytest.raises(error, match="none of it was run"):
            convert(tmp_path / name, tmp_path / "out")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm_type": "batch"}, ["architecture.norm_type", "found: batch", "instance"]),
        ({"activation_type": "relu"}, ["architecture.activation_type", "leaky_relu"]),
    ],
)
def test_blocks_that_are_not_here_are_named(tmp_path, upstream, change, words):
    save_checkpoint(tmp_path / "other.pth", upstream, configuration(**change))
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "other.pth", tmp_path / "run")
    assert all(word in str(caught.value) for word in words)


def test_weights_that_do_not_fit_are_listed(tmp_path, upstream):
    state = upstream.state_dict()
    state["msb_blocks.0.conv.6.weight"] = state["msb_blocks.0.conv.3.weight"]
    del state["bn.conv.4.bias"]
    save_checkpoint(tmp_path / "odd.pth", upstream, configuration(), model_state_dict=state)
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "odd.pth", tmp_path / "run")
    assert "1 missing: bottleneck.4.bias" in str(caught.value)
    assert "1 surplus: gateways.0.6.weight" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_a_model_error(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError):
        convert(tmp_path / "x.pth", tmp_path / "run")


def write_cases(root, num_channels=1, folders=("images", "masks")):
    """Write cases as the released preprocessing saves them: bare tensors (C, X, Y, Z) and (1, X, Y, Z), named CASE.nii.pt."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
    arrays = {}
    for seed in range(3):
        image, labels = Phantom(seed, (32, 32, 32), num_channels).acquire(1.0)
        torch.save(torch.from_numpy(image.data), root / folders[0] / f"case_{seed}.nii.pt")
        torch.save(torch.from_numpy(labels.data), root / folders[1] / f"case_{seed}.nii.pt")
        arrays[f"case_{seed}"] = image.data, labels.data[0]
    return arrays


@pytest.mark.parametrize(("num_channels", "folders"), [(1, ("images", "masks")), (2, ("imagesTr", "labelsTr"))])
def test_cases_become_a_dataset_that_can_be_prepared(tmp_path, num_channels, folders):
    arrays = write_cases(tmp_path / "cases", num_channels, folders)
    facts = convert(tmp_path / "cases", tmp_path / "data", spacing_mm=(1, 1, 2), name="Old")
    assert (facts["kind"], facts["cases"], facts["labels"]) == ("dataset", 3, [0, 1, 2])
    dataset = open_dataset(tmp_path / "data")
    assert (dataset.layout, dataset.name, len(dataset.channel_names)) == ("MSD", "Old", num_channels)
    for case in dataset.cases:
        image, labels = arrays[case.name]
        scan = read_volume(case.images[0])
        np.testing.assert_array_equal(scan.data, image)
        assert scan.spacing_mm == (1, 1, 2)
        assert scan.orientation == "RAS"
        np.testing.assert_array_equal(read_volume(case.labels).data[0], labels)
    index = preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(num_jobs=1, fixed_shape=(32, 32, 32)))
    assert len(index.cases) == 3


def test_broken_cases_are_named_and_nothing_is_written(tmp_path):
    write_cases(tmp_path / "cases")
    (tmp_path / "cases" / "masks" / "case_1.nii.pt").unlink()
    with pytest.raises(DataError, match="no labels"):
        convert(tmp_path / "cases", tmp_path / "data")
    for content, words in (
        (torch.full((1, 32, 32, 32), 0.5), "whole numbers"),
        (torch.zeros(1, 16, 32, 32), "different shapes"),
        ({"a": 1}, "not hold a plain tensor"),
    ):
        torch.save(content, tmp_path / "cases" / "masks" / "case_1.nii.pt")
        with pytest.raises(DataError, match=words) as caught:
            convert(tmp_path / "cases", tmp_path / "data")
        assert "case_1" in str(caught.value)
    torch.save(torch.zeros(1, 32, 32, 32), tmp_path / "cases" / "masks" / "case_1.nii.pt")
    torch.save(torch.full((1, 32, 32, 32), torch.nan), tmp_path / "cases" / "images" / "case_1.nii.pt")
    with pytest.raises(DataError, match="voxels that are not finite"):
        convert(tmp_path / "cases", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with pytest.raises(DataError, match="neither a checkpoint nor cases"):
        convert(tmp_path / "cases" / "images", tmp_path / "data")


def test_an_output_that_exists_is_left_alone(tmp_path, upstream):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists"):
        convert(tmp_path / "best_model.pth", tmp_path / "run")
    assert json.dumps([path.name for path in (tmp_path / "run").iterdir()]) == '["mine"]'
