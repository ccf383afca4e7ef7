"""`--precision auto`: the lowest precision that the records of all models allow and this machine computes."""

import json

import pytest

from rarecli import Predictor
from rarecli.core.config.loading import validate
from rarecli.core.engines import open_model as room
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import PrecisionRecord
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.engines.open_model import choose_precision
from rarecli.core.errors import ModelError

FOLDER = built_in_models()["hippocampus"]


def record(**dice):
    return {
        "num_cases": 3,
        "measured": [{"precision": name, "dice": values, "labels_changed": [0.0, 0.1]} for name, values in dice.items()],
    }


def bundle_with(folder, measured):
    """A bundle's manifest alone: nothing else is read before the first scan."""
    folder.mkdir()
    content = json.loads((FOLDER / "manifest.json").read_text()) | ({"precisions": measured} if measured else {})
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def everything_runs(monkeypatch):
    monkeypatch.setattr(room, "precision_fault", lambda *_: None)


# at the first depth and at the second; int8 gains at one and loses .0015 at the other
@pytest.mark.parametrize(
    ("bf16", "int8", "expected"),
    [
        ((0.8995, 0.7991), (0.95, 0.7985), "bf16"),
        ((0.8995, 0.7991), (0.8999, 0.7995), "int8"),
        ((0.898, 0.81), (0.95, 0.7985), "fp32"),
        ((0.898, 0.81), (0.9, 0.8), "int8"),
    ],
)
def test_auto_is_the_lowest_precision_that_loses_less_than_a_thousandth_at_every_depth(everything_runs, tmp_path, bf16, int8, expected):
    bundle = bundle_with(tmp_path / "bundle", record(fp32=(0.9, 0.8), bf16=bf16, int8=int8))
    assert choose_precision([bundle]) == expected
    assert choose_precision([bundle], backend="onnx") == "fp32"
    assert choose_precision([bundle, bundle_with(tmp_path / "other", None)]) == "fp32"


def test_auto_is_fp32_without_a_record_and_without_a_model(everything_runs):
    assert choose_precision([FOLDER]) == choose_precision([]) == "fp32"


def test_auto_takes_no_precision_that_was_not_measured_or_that_this_machine_lacks(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path / "bundle", record(fp32=(0.9, 0.8), bf16=(0.9, 0.8)))
    monkeypatch.setattr(room, "precision_fault", lambda _, precision: "the CPU lacks it" if precision == "bf16" else None)
    assert choose_precision([bundle]) == "fp32"


def test_a_predictor_says_what_auto_became(tmp_path):
    bundle = bundle_with(tmp_path / "bundle", record(fp32=(0.9, 0.8), bf16=(0.9, 0.8)))
    expected = "fp32" if room.precision_fault(bundle, "bf16") else "bf16"
    with Predictor(bundle, precision="auto") as predictor:
        assert predictor.choice.precision == expected
        with Predictor(bundle, precision=expected) as same:
            assert predictor.key == same.key


def test_a_record_is_read_as_it_was_written(tmp_path):
    content = record(fp32=(0.9, 0.8), int8=(0.5, 0.4))
    manifest = load_manifest(bundle_with(tmp_path / "bundle", content))
    assert json.loads(manifest.model_dump_json())["precisions"] == json.loads(json.dumps(content))
    assert manifest.precisions.dice_lost("int8") == pytest.approx(0.4)


@pytest.mark.parametrize("wrong", [record(bf16=(0.9, 0.8)), record(fp32=(0.9,)), record(fp32=(0.9, 1.2)), {"num_cases": 1, "measured": []}])
def test_a_record_that_compares_with_nothing_is_refused(wrong):
    with pytest.raises(ModelError):
        validate(PrecisionRecord, wrong, "the record", ModelError)
