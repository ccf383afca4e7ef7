import importlib
import json
import os
import sys
import types

import pytest

from rarecli.core.config.train_config import load_train_config
from rarecli.core.errors import EnvironmentFault
from rarecli.core.training.tracking import open_tracker
from rarecli.core.training.train import TrainOptions, train

TINY = {"num_filters": 2, "epochs": 2, "num_folds": 4}


class Listener:
    def __init__(self):
        self.warned = []

    def say(self, text):
        pass

    def warn(self, text):
        if "log.jsonl has all numbers" in text:  # the tracker's warning; a training may have other warnings
            self.warned.append(text)

    def track(self, items, label, total, costs=None):
        yield from items


def test_tensorboard_holds_every_number_of_the_log(prepared, tmp_path):
    name = "tensorboard.backend.event_processing.event_accumulator"
    # of the extra `test`: where all must run, its absence is a failure
    reader = importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)
    listener = Listener()
    train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu", track="tensorboard"), reporter=listener)
    assert not listener.warned
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for tag, key in (("loss/loss", "loss"), ("loss/loss_depth3", "loss_depth3"), ("dice/dice_mean", "dice_mean"), ("training/lr", "lr")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2]
        assert [scalar.value for scalar in scalars] == pytest.approx([line[key] for line in log], rel=1e-6)
    assert len(events.Tags()["scalars"]) == len(log[0]) - 1


def test_wandb_works_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    listener = Listener()
    tracker = open_tracker("wandb", tmp_path, "name", {"epochs": 2}, listener)
    tracker.log({"epoch": 1, "loss": 0.5})
    tracker.close()
    assert not listener.warned
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def fake_wandb(monkeypatch, **parts):
    module = types.ModuleType("wandb")
    module.init = parts.pop("init", lambda **_: types.SimpleNamespace(**parts))
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_what_wandb_is_told(tmp_path, monkeypatch):
    said, started = [], []

    def init(**options):
        started.append(options)
        return types.SimpleNamespace(log=lambda values, step: said.append((step, values)), finish=lambda quiet: said.append("end"))

    fake_wandb(monkeypatch, init=init)
    for _ in range(2):  # a run that is resumed goes on under its own id
        tracker = open_tracker("wandb", tmp_path, "name", {"epochs": 2}, Listener())
        tracker.log({"epoch": 3, "loss": 0.5, "dice_depth0": 0.25, "note": "text", "lr": 1e-3})
        tracker.close()
    assert said[:2] == [(3, {"loss/loss": 0.5, "dice/dice_depth0": 0.25, "training/lr": 1e-3}), "end"]
    assert started[0] == started[1]
    assert (started[0]["name"], started[0]["config"], started[0]["resume"]) == ("name", {"epochs": 2}, "allow")


def test_a_tracker_that_fails_does_not_stop_a_training(prepared, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    fake_wandb(monkeypatch, log=refuse, finish=refuse)
    listener = Listener()
    train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu", track="wandb"), reporter=listener)
    assert len(listener.warned) == 1
    assert "no route to host" in listener.warned[0]
    fake_wandb(monkeypatch, init=refuse)
    open_tracker("wandb", tmp_path, "name", {}, listener).log({"epoch": 1})
    assert "could not be started" in listener.warned[1]


def test_a_tracker_that_is_not_installed_is_named_before_training(prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EnvironmentFault) as caught:
        train(prepared, tmp_path / "run", load_train_config(overrides=TINY), TrainOptions(device="cpu", track="wandb"))
    assert 'rare-unet[wandb]"' in str(caught.value)
