import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rarecli.cli import app
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.training.dry_run import dry_run
from rarecli.core.training.train import TrainOptions, train

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "paper_size.py"


def test_a_dry_run_says_all_and_writes_nothing(prepared, tmp_path):
    arguments = ["train", str(prepared), "-o", str(tmp_path / "run"), "--dry-run", "--num-filters", "4", "--epochs", "3", "--no-amp"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    # 8 cases in 5 folds: 6 to train on, two at a time
    assert (facts["cases"], facts["steps_per_epoch"], facts["steps"]) == ({"train": 6, "val": 2}, 3, 9)
    assert facts["parameters"]["total"] == sum(num for part, num in facts["parameters"].items() if part != "total")
    memory = facts["memory_bytes"]
    assert memory["state"] == 4 * 4 * facts["parameters"]["total"]
    assert memory["peak"] == memory["state"] + max(memory["step"], memory["validation"])
    table = CliRunner().invoke(app, arguments)
    assert "memory, peak" in table.stdout
    assert f"{facts['parameters']['total']:,}" in table.stdout
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_training_would(prepared, tmp_path):
    for option, words in (
        (["--fold", "9"], "no such fold"),
        (["--set", "monitor=x"], "no such metric"),
        (["--num-depths", "5"], "more depths"),
    ):
        result = CliRunner().invoke(app, ["train", str(prepared), "-o", str(tmp_path / "run"), "--dry-run", *option])
        assert words in str(result.exception)


@pytest.mark.parametrize("mode", ["whole", "patch"])
def test_the_paper_s_training_in_small(tmp_path, mode):
    specification = importlib.util.spec_from_file_location("paper_size", BENCHMARK)
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    benchmark.write_tumours(tmp_path / "data", 2, (60, 60, 72))
    shape = {"fixed_shape": (64, 64, 64)} if mode == "whole" else {"patch_size": (64, 64, 64)}
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(num_levels=5, num_jobs=1, **shape))
    overrides = {"num_filters": 2, "epochs": 1, "num_folds": 2, "checkpoint_activations": True}
    config = load_train_config("brain-tumour-paper", overrides=overrides)
    facts = dry_run(tmp_path / "prepared", config, device="cpu")
    assert (facts["network"]["num_levels"], facts["network"]["in_channels"], facts["network"]["num_classes"]) == (5, 4, 4)
    line = train(tmp_path / "prepared", tmp_path / "run", config, TrainOptions(device="cpu"))
    assert {"loss_depth0", "loss_depth3", "dice_depth0", "dice_depth3", "dice_enhancing tumour"} <= line.keys()
