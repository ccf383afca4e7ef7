from html_pages import ReadPage, require_self_contained

from rarecli.core.benchmarking.suites import load_suite, random_spec
from rarecli.core.config.run_folder import RunInfo
from rarecli.core.config.train_config import load_train_config
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render
from rarecli.core.training.progress_report import time_left, training_page
from rarecli.core.training.train import TrainOptions, train

SPLIT = {"train": ["a", "b"], "val": ["c"]}


def info(**settings):
    config = load_train_config(overrides=settings)
    return RunInfo(spec=random_spec(load_suite("smoke")), config=config, split=SPLIT, versions={})


def line(epoch, **values):
    return {"epoch": epoch, "lr": 1e-3, "seconds": 10.0, "waited_for_data": 0.1, "computed": 0.8, "loss": 1.0 / epoch} | values


def test_the_page_tells_loss_dice_settings_split_and_the_time_left():
    log = [line(1), line(2, dice_depth0=0.5, dice_mean=0.4), line(3, loss=float("nan"))]
    page = ReadPage(render(training_page(info(epochs=9, **{"optimiser.lr": 0.0123}), log, ReportOptions("rare train p -o run"))))
    require_self_contained(page)
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts["Epoch"] == "3 of 9"
    assert facts["Time left"] == "about 60 s"
    assert facts["Best dice_mean"] == "0.4000, epoch 2"
    columns, rows = page.tables["Epochs, the newest first"]
    assert [row[0][0] for row in rows] == ["3", "2", "1"]
    assert [row[columns.index("loss")] for row in rows] == [("nan", ""), ("0.5", "0.5"), ("1", "1.0")]
    assert [row[columns.index("dice mean")][0] for row in rows] == ["", "0.4", ""]
    assert [("optimiser.lr", "optimiser.lr"), ("0.0123", "0.0123")] in page.tables["Every setting of the training"][1]
    assert [[cell for cell, _ in row] for row in page.tables["Every case and its part"][1]] == [
        ["a", "train"],
        ["b", "train"],
        ["c", "val"],
    ]
    assert "Training loss over epochs" in page.texts["figcaption"]


def test_the_time_left_follows_the_newest_epochs():
    log = [line(1, seconds=1000.0), *(line(epoch, seconds=60.0) for epoch in range(2, 7))]
    assert time_left(log, 16) == "about 10 min"
    assert time_left(log, 306) == "about 5.0 h"
    assert time_left([{"epoch": 1}], 5) == "unknown"


def test_a_long_training_stays_small():
    log = [line(epoch, dice_mean=0.5) for epoch in range(1, 3001)]
    page = ReadPage(render(training_page(info(epochs=3000), log, ReportOptions())))
    assert len(page.source) < 200_000
    assert len(page.tables["Epochs, the newest first; 100 of 3000, all are in log.jsonl"][1]) == 100


def test_a_training_writes_its_page_after_every_epoch_and_without_one_removes_it(prepared, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("rarecli.core.training.train.write_report", lambda build, folder, options, noted: written.append(build(options)))
    config = load_train_config(overrides={"num_filters": 4, "epochs": 2, "num_folds": 4, "num_depths": 2})
    train(prepared, tmp_path / "run", config, TrainOptions(device="cpu", report=ReportOptions()))
    assert [dict(page.facts)["Epoch"] for page in written] == ["1 of 2", "2 of 2", "2 of 2"]
    assert [dict(page.facts)["Time left"] == "finished" for page in written] == [False, False, True]
