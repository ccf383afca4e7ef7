import json

import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.config.train_config import load_train_config
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.prediction.cluster_model import on_workers
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.training.train import TrainOptions, train

TINY = {"num_filters": 2, "epochs": 1, "num_folds": 4, "optimiser.lr": 4e-3}


@pytest.fixture(scope="module")
def other(prepared, tmp_path_factory):
    """A run on fold 1 with a network of another size; the shared `run` is fold 0."""
    output = tmp_path_factory.mktemp("runs") / "other"
    train(prepared, output, load_train_config(overrides=TINY | {"fold": 1, "seed": 5}), TrainOptions(device="cpu"))
    return output


def change(source, target, *keys, value):
    """Return a copy of a run with a changed description."""
    target.mkdir()
    (target / "weights.safetensors").write_bytes((source / "weights.safetensors").read_bytes())
    content = json.loads((source / "run.json").read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (target / "run.json").write_text(json.dumps(content))
    return target


def test_probabilities_are_averaged_and_labels_are_their_best(run, other):
    scan, _ = Phantom(4).acquire(2.0, "LPS")
    single = []
    for model in (run, other):
        with Predictor(model, device="cpu") as predictor:
            single.append(predictor.predict(scan, probabilities=True).probabilities)
    with Predictor([run, other], device="cpu") as predictor:
        both = predictor.predict(scan, probabilities=True)
    mean = (single[0] + single[1]) / 2
    np.testing.assert_allclose(both.probabilities, mean, atol=1e-6)
    np.testing.assert_array_equal(both.labels, mean.argmax(axis=0))
    assert np.abs(single[0] - single[1]).max() > 0.01


def test_models_that_see_a_scan_otherwise_are_refused_naming_the_difference(run, tmp_path):
    changed = change(run, tmp_path / "changed", "spec", "plan", "spacing_mm", value=[1, 1, 1.5])
    with pytest.raises(ModelError) as caught:
        Predictor([run, changed], device="cpu")
    assert "field: plan.spacing_mm" in str(caught.value)
    assert f"as in {run}" in str(caught.value)


def test_every_case_is_scored_by_the_run_that_has_not_seen_it(run, other, phantom_dataset, tmp_path):
    held_out = {path: json.loads((path / "run.json").read_text())["split"]["val"] for path in (run, other)}
    with Folds(ModelChoice((run, other), "cpu")) as folds:
        assert folds.case_names == sorted(held_out[run] + held_out[other])
        pooled = evaluate(phantom_dataset, folds, tmp_path / "pooled", EvaluateOptions(depths=[2, 3], upsampled=False, surface=False))
    alone = []
    for path, names in held_out.items():
        with Predictor(path, device="cpu") as predictor:
            alone += evaluate(
                phantom_dataset,
                predictor,
                tmp_path / path.name,
                EvaluateOptions(depths=[2, 3], names=names, upsampled=False, surface=False),
            )["metric_per_case"]
    key = "case", "depth"
    assert sorted(pooled["metric_per_case"], key=lambda item: [item[k] for k in key]) == sorted(
        alone, key=lambda item: [item[k] for k in key]
    )


def test_every_run_of_folds_is_run_as_it_was_chosen(run, tmp_path):
    """A worker of a cluster opens the same choice again, and refuses one whose key differs."""
    mirrored = change(run, tmp_path / "mirrored", "config", "augmentation", "flip", value=True)
    choice = ModelChoice((mirrored,), "cpu", "torch", 1, "fp32", tta=True)
    with Folds(choice) as folds, choice.open() as alone:
        assert folds.choice == choice
        assert folds.for_case(folds.case_names[0]).choice == choice
        assert on_workers(str, folds).keywords["choice"].tta
        assert folds.for_case(folds.case_names[0]).key == alone.key
    with pytest.raises(UsageError, match="bf16"):
        Folds(ModelChoice((run,), "cpu", precision="bf16"))


def test_folds_that_cannot_be_pooled_are_refused(run, other, bundle, phantom_dataset, tmp_path):
    with pytest.raises(UsageError, match="two runs held out the same case"):
        Folds(ModelChoice((run, change(run, tmp_path / "again", "spec", "name", value="again"))))
    with pytest.raises(ModelError, match="only a run records"):
        Folds(ModelChoice((run, bundle)))
    with pytest.raises(UsageError, match="the runs held out no cases"):
        Folds(ModelChoice((change(run, tmp_path / "all", "split", "val", value=[]),)))
    seen = json.loads((run / "run.json").read_text())["split"]["train"][0]
    with Folds(ModelChoice((run,), "cpu")) as folds, pytest.raises(UsageError, match="no run held out this case"):
        evaluate(phantom_dataset, folds, tmp_path / "scores", EvaluateOptions(names=[seen], surface=False))
