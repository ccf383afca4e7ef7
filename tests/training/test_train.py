import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rarecli.core.config import run_folder
from rarecli.core.config.run_folder import load_resumed_config
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.folds import choose_split
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.training import learner, loop, losses, state
from rarecli.core.training.startup import make_spec, require_known_metric
from rarecli.core.training.train import TrainOptions, train

TINY = {"num_filters": 2, "epochs": 3, "num_folds": 4, "validate_every": 3}


class StopAfter:
    """A reporter that stops the training after this many epochs, like a kill."""

    def __init__(self, epochs):
        self.epochs = epochs

    def say(self, text):
        if text.startswith(f"epoch {self.epochs}/"):
            raise KeyboardInterrupt

    def warn(self, text):
        pass

    def track(self, items, label, total, costs=None):
        yield from items


def weights(run):
    return load_file(run / "weights.safetensors")


def test_fault_43_a_resumed_training_ends_in_the_same_bits(prepared, tmp_path):
    """The weights are bit-equal to those of a training without interruption (CPU)."""
    config = load_train_config(overrides=TINY | {"dropout": 0.1})
    train(prepared, tmp_path / "whole", config, TrainOptions(device="cpu"))
    with pytest.raises(KeyboardInterrupt):
        train(prepared, tmp_path / "broken", config, TrainOptions(device="cpu"), reporter=StopAfter(2))
    train(prepared, tmp_path / "broken", config, TrainOptions(device="cpu", resume=True))
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("whole", "broken")]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_a_run_holds_what_the_folder_promises(run):
    assert {path.name for path in run.iterdir()} == set(run_folder.FILES)
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "loss_depth0", "loss_depth3", "consistency", "dice_depth0", "dice_depth3", "dice_mean", "lr"} <= last.keys()
    assert last["dice_mean"] == pytest.approx(np.mean([last[f"dice_depth{k}"] for k in range(4)]))


def test_training_learns(prepared, tmp_path):
    config = load_train_config(
        overrides={"num_filters": 4, "epochs": 8, "batch_size": 1, "num_folds": 4, "validate_every": 8, "optimiser.lr": 6e-3}
    )
    last = train(prepared, tmp_path / "run", config, TrainOptions(device="cpu"))
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    # tests/integration checks the score of a longer training with the demo
    assert last["loss"] < 0.75 * first["loss"]


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(prepared, run, tmp_path):
    config = load_train_config(overrides=TINY)
    with pytest.raises(UsageError, match="the run exists"):
        train(prepared, run, config)
    with pytest.raises(UsageError, match="nothing to resume"):
        train(prepared, tmp_path / "none", config, TrainOptions(resume=True))


def test_a_run_resumes_with_its_own_split_on_its_own_data_and_over_a_torn_log(prepared, phantom_dataset, tmp_path):
    names = [f"phantom_{index:03d}" for index in range(8)]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": names[:2], "val": names[2:3]}]))
    train(prepared, tmp_path / "run", load_train_config(overrides=TINY | {"epochs": 1}), TrainOptions(device="cpu", splits=splits))
    (tmp_path / "run" / "log.jsonl").write_text((tmp_path / "run" / "log.jsonl").read_text() + '{"epoch": 2, "lo')
    longer = load_train_config(overrides=TINY | {"epochs": 2})
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UsageError, match="finished"):
        train(prepared, tmp_path / "run", load_train_config(overrides=TINY | {"epochs": 1}), TrainOptions(device="cpu", resume=True))
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    train(prepared, tmp_path / "run", longer, TrainOptions(device="cpu", resume=True))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["split"]["val"] == names[2:3]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1, 2]
    preprocess(phantom_dataset, tmp_path / "other", PreprocessOptions(patch_size=(32, 32, 32), spacing_mm=(1, 1, 1.05), num_jobs=1))
    with pytest.raises(UsageError, match="another dataset"):
        train(tmp_path / "other", tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu", resume=True))


@pytest.mark.parametrize("content", ['{"a": 1}', '[{"train": ["phantom_000"]}]', '[{"train": ["phantom_000"], "val": ["phantom_000"]}]'])
def test_splits_of_the_wrong_form_are_a_data_error(prepared, tmp_path, content):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(DataError):
        train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu", splits=tmp_path / "splits.json"))
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_configuration_names_the_key(prepared, run):
    config = load_train_config(overrides={"num_filters": 4, "epochs": 9, "num_folds": 4, "optimiser.lr": 1.0})
    with pytest.raises(UsageError) as caught:
        train(prepared, run, config, TrainOptions(resume=True))
    assert "optimiser" in str(caught.value)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_named_and_never_trained_on(prepared, tmp_path, monkeypatch, where):
    real = losses.segmentation_loss
    depths = iter(range(10_000))

    def poisoned(logits, labels, alpha):
        value = real(logits, labels, alpha)
        if next(depths) % 4 != 2:
            return value
        if where == "loss":
            return value * math.nan
        value.register_hook(lambda gradient: gradient * math.inf)
        return value

    monkeypatch.setattr(learner, "segmentation_loss", poisoned)
    with pytest.raises(ModelError) as caught:
        train(prepared, tmp_path / "run", load_train_config(overrides=TINY | {"batch_size": 1}), TrainOptions(device="cpu"))
    assert "5 steps in a row were not finite" in str(caught.value)
    assert ("loss_depth2" if where == "loss" else "the gradient of heads.2.bias") in str(caught.value)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_one_bad_step_is_skipped_and_training_goes_on(prepared, tmp_path, monkeypatch):
    real = losses.segmentation_loss
    calls = iter(range(10_000))
    monkeypatch.setattr(learner, "segmentation_loss", lambda *args: real(*args) * (math.nan if next(calls) == 5 else 1.0))
    said = []

    class Listener(StopAfter):
        def warn(self, text):
            said.append(text)

    last = train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu"), reporter=Listener(99))
    assert said[:1] == ["step 2: loss_depth1 is not finite; the step is skipped"]
    assert math.isfinite(last["loss"])
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_early_stopping_waits_for_the_named_metric(prepared, tmp_path, monkeypatch):
    values = iter([0.5, 0.6, 0.6, 0.1, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *args: {"dice_depth1": next(values), "dice_mean": 0.0})
    config = load_train_config(overrides={"num_filters": 2, "epochs": 5, "num_folds": 4, "monitor": "dice_depth1", "patience": 2})
    last = train(prepared, tmp_path / "run", config, TrainOptions(device="cpu"))
    assert (last["epoch"], last["best_epoch"], last["best"]) == (4, 2, 0.6)
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(UsageError, match="the run is finished"):
        train(prepared, tmp_path / "run", config, TrainOptions(device="cpu", resume=True))
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before
    more = train(prepared, tmp_path / "run", config.model_copy(update={"patience": 3}), TrainOptions(device="cpu", resume=True))
    assert (more["epoch"], more["best_epoch"]) == (5, 5)


def test_an_unknown_metric_is_named_with_the_known_ones(prepared, tmp_path):
    config = load_train_config(overrides=TINY | {"epochs": 1, "monitor": "dice_tumour"})
    with pytest.raises(UsageError) as caught:
        train(prepared, tmp_path / "run", config, TrainOptions(device="cpu"))
    assert "dice_tumour" in str(caught.value)
    assert "dice_depth0" in str(caught.value)


def test_a_metric_of_a_depth_that_no_held_out_case_enters_at_is_refused(prepared):
    dataset = open_prepared(prepared)
    cases = tuple(record.model_copy(update={"depth": 1}) for record in dataset.index.cases)
    coarse = replace(dataset, index=dataset.index.model_copy(update={"cases": cases}))
    for depth, known in ((0, False), (1, True)):
        config = load_train_config(overrides=TINY | {"monitor": f"dice_depth{depth}"})
        with nullcontext() if known else pytest.raises(UsageError, match="no such metric"):
            require_known_metric(config, make_spec(coarse, config), coarse, ["phantom_000"])


@pytest.mark.parametrize("arch", ["unet", "unet-aug"])
def test_the_baselines_have_one_entry(prepared, tmp_path, arch):
    last = train(prepared, tmp_path / "run", load_train_config(overrides=TINY | {"arch": arch, "epochs": 1}), TrainOptions(device="cpu"))
    assert "loss_depth0" in last
    assert "loss_depth1" not in last
    assert "consistency" not in last


def test_all_cases_train_without_validation(prepared, tmp_path):
    last = train(prepared, tmp_path / "run", load_train_config(overrides=TINY | {"fold": "all", "epochs": 1}), TrainOptions(device="cpu"))
    assert "dice_mean" not in last
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_splits_are_read_and_checked(prepared, tmp_path):
    names = [f"phantom_{index:03d}" for index in range(8)]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": names[:2], "val": names[2:3]}]))
    config = load_train_config(overrides=TINY | {"epochs": 1})
    train(prepared, tmp_path / "run", config, TrainOptions(device="cpu", splits=splits))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["split"] == {"train": names[:2], "val": names[2:3]}
    splits.write_text(json.dumps([{"train": ["nobody"], "val": []}]))
    with pytest.raises(DataError, match="not prepared"):
        train(prepared, tmp_path / "other", config, TrainOptions(device="cpu", splits=splits))


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_training_starts_with_the_weights_of_another_model(prepared, run, bundle, tmp_path, kind):
    config = load_train_config(overrides=dict(TINY) | {"num_filters": 4, "epochs": 1, "optimiser.lr": 1e-9, "optimiser.weight_decay": 0.0})
    train(prepared, tmp_path / "run", config, TrainOptions(device="cpu", init={"run": run, "bundle": bundle}[kind]))
    expected, found = (load_file(folder / "weights.safetensors") for folder in (run, tmp_path / "run"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["started_from"] == "Phantoms"
    train(prepared, tmp_path / "run", config.model_copy(update={"epochs": 2}), TrainOptions(device="cpu", resume=True))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["started_from"] == "Phantoms"


def test_weights_to_start_with_that_do_not_fit_are_refused(prepared, run, tmp_path):
    config = load_train_config(overrides=dict(TINY) | {"num_filters": 8})
    with pytest.raises(ModelError, match="do not fit"):
        train(prepared, tmp_path / "run", config, TrainOptions(device="cpu", init=run))
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(UsageError, match="its own weights"):
        train(prepared, run, load_train_config(overrides=dict(TINY)), TrainOptions(device="cpu", resume=True, init=run))


def test_all_folds_are_written_and_found_again(prepared, tmp_path):
    config = load_train_config(overrides=TINY | {"epochs": 1})
    train(prepared, tmp_path / "run", config, TrainOptions(device="cpu"))
    folds = json.loads((tmp_path / "run" / "splits_final.json").read_text())
    assert len(folds) == 4
    assert folds[0] == json.loads((tmp_path / "run" / "run.json").read_text())["split"]
    shutil.copytree(prepared, tmp_path / "prepared")
    (tmp_path / "prepared" / "splits_final.json").write_text(json.dumps(folds[::-1]))
    assert choose_split(open_prepared(tmp_path / "prepared"), config, None) == folds[3]
    assert choose_split(open_prepared(tmp_path / "prepared"), config, tmp_path / "run" / "splits_final.json") == folds[0]


def test_a_new_run_goes_on_from_another_s_state(prepared, tmp_path):
    config = load_train_config(overrides=TINY | {"optimiser.schedule": "constant", "optimiser.kind": "sgd", "optimiser.lr": 1e-2})
    train(prepared, tmp_path / "whole", config, TrainOptions(device="cpu"))
    train(prepared, tmp_path / "one", config.model_copy(update={"epochs": 2}), TrainOptions(device="cpu"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir() if path.is_file()}
    train(prepared, tmp_path / "two", config, TrainOptions(device="cpu", resume_from=tmp_path / "one"))
    whole, two = weights(tmp_path / "whole"), weights(tmp_path / "two")
    assert all(torch.equal(whole[name], two[name]) for name in whole)  # momentum and all
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir() if path.is_file()}
    assert json.loads((tmp_path / "two" / "run.json").read_text())["started_from"] == "one, epoch 2"
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 3
    # other options are allowed, another network is not
    other = load_train_config(
        overrides=TINY | {"epochs": 3, "optimiser.kind": "sgd", "optimiser.lr": 1e-3, "loss.depth_weights": "power-of-two"}
    )
    assert train(prepared, tmp_path / "three", other, TrainOptions(device="cpu", resume_from=tmp_path / "one"))["epoch"] == 3
    with pytest.raises(UsageError, match="another network") as caught:
        train(
            prepared,
            tmp_path / "four",
            load_train_config(overrides=TINY | {"num_filters": 3}),
            TrainOptions(device="cpu", resume_from=tmp_path / "one"),
        )
    assert "network.num_filters" in str(caught.value)
    with pytest.raises(UsageError, match="nothing to resume"):
        train(prepared, tmp_path / "four", config, TrainOptions(device="cpu", resume_from=prepared))


@pytest.fixture(scope="module")
def one_epoch(prepared, tmp_path_factory):
    """Train one epoch in steps of one case, with AdamW and the one-cycle schedule."""
    run = tmp_path_factory.mktemp("source") / "one"
    train(prepared, run, load_train_config(overrides=TINY | {"epochs": 1, "batch_size": 1}), TrainOptions(device="cpu"))
    return run


@pytest.mark.parametrize(
    "changes", [{"fold": 1}, {"fold": "all"}, {"cases": 4}, {"monitor": "dice_depth0"}, {"optimiser.kind": "sgd"}], ids=str
)
def test_a_state_that_would_mean_something_else_is_not_taken_from_another_run(prepared, one_epoch, tmp_path, changes):
    config = load_train_config(overrides=changes, base=load_resumed_config(one_epoch).model_copy(update={"epochs": 2}))
    with pytest.raises(UsageError, match="trained with other settings") as caught:
        train(prepared, tmp_path / "two", config, TrainOptions(device="cpu", resume_from=one_epoch))
    assert f"field: {next(iter(changes))}\n" in str(caught.value)
    assert not (tmp_path / "two" / "run.json").exists()


@pytest.mark.parametrize(
    ("schedule", "rate"),
    # at the end of 2 of 4 epochs, however many steps these had
    [("polynomial", 1e-3 * 0.5**0.9), ("plateau", 1e-3)],
)
def test_other_steps_and_schedules_go_by_their_own_rate(prepared, one_epoch, tmp_path, schedule, rate):
    changes = {"epochs": 4, "batch_size": 3, "optimiser.schedule": schedule, "optimiser.lr": 1e-3}
    config = load_train_config(overrides=changes, base=load_resumed_config(one_epoch))
    train(prepared, tmp_path / "two", config, TrainOptions(device="cpu", resume_from=one_epoch))
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["lr"] == pytest.approx(rate)


def test_a_model_without_a_state_is_not_overwritten(prepared, run, tmp_path):
    """For example a converted model, or a run with deleted checkpoints."""
    for name in (run_folder.RUN, run_folder.WEIGHTS):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(run / name, tmp_path / "run" / name)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="the output holds a model"):
        train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_whose_cases_are_gone_does_not_go_on(prepared, one_epoch, tmp_path):
    shutil.copytree(prepared, tmp_path / "prepared")
    index = json.loads((tmp_path / "prepared" / "prepared.json").read_text())
    gone = index["cases"].pop(0)["name"]
    (tmp_path / "prepared" / "prepared.json").write_text(json.dumps(index))
    config = load_resumed_config(one_epoch).model_copy(update={"epochs": 2})
    for options in ({"resume": True}, {"resume_from": one_epoch}):
        output = one_epoch if "resume" in options else tmp_path / "two"
        with pytest.raises(UsageError, match="no longer prepared") as caught:
            train(tmp_path / "prepared", output, config, TrainOptions(device="cpu", **options))
        assert gone in str(caught.value)


def test_depth_weights_decide_what_the_loss_is(prepared, tmp_path):
    line = train(
        prepared,
        tmp_path / "run",
        load_train_config(overrides=TINY | {"epochs": 1, "loss.depth_weights": "power-of-two"}),
        TrainOptions(device="cpu"),
    )
    expected = sum(line[f"loss_depth{depth}"] * 2 ** (3 - depth) / 15 for depth in range(4)) + line["consistency"]
    assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_contradicting_option_is_refused_by_name_and_a_length_is_not(prepared, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    base = load_resumed_config(copy)
    with pytest.raises(UsageError) as caught:
        train(prepared, copy, load_train_config(overrides={"seed": 7}, base=base), TrainOptions(device="cpu", resume=True))
    assert "field: seed" in str(caught.value)
    assert "found: 7" in str(caught.value)
    assert "expected: 42" in str(caught.value)
    info = json.loads((copy / "run.json").read_text())
    info["split"]["train"].pop()
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(UsageError) as caught:
        train(prepared, copy, load_train_config(overrides={"epochs": 9}, base=base), TrainOptions(device="cpu", resume=True))
    assert "field: split" in str(caught.value)


def test_a_run_that_lacks_settings_which_were_added_since_can_be_resumed(prepared, tmp_path):
    config, dataset = load_train_config(overrides=TINY), open_prepared(prepared)
    split = {"train": ["phantom_000"], "val": ["phantom_001"]}
    now = state.origin(config, make_spec(dataset, config), dataset, split)
    before = json.loads(json.dumps(now))
    for name in ("per_axis", "any_size"):
        del before["spec"][name]
    state.require_same_origin(now, before, tmp_path)
    before["spec"]["as_is_octaves"] = 0.5
    with pytest.raises(UsageError, match="another dataset"):
        state.require_same_origin(now, before, tmp_path)
