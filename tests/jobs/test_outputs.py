import json

import pytest

from rarecli import Phantom
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess, preprocess_part
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.errors import UsageError
from rarecli.core.evaluation import summary
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.score import ScoreOptions, score
from rarecli.core.imaging.volume import write_image
from rarecli.core.jobs.shards import Shard
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.training.train import train


@pytest.fixture
def data(tmp_path):
    write_phantoms(tmp_path / "data", range(2), 8.0)
    return tmp_path / "data"


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=["plain", "resume", "overwrite"])
def test_reference_labels_are_never_replaced_by_predictions(run, data, options):
    before = content(data)
    with pytest.raises(UsageError, match="did not write") as caught:
        predict([data / "imagesTr"], ModelChoice((run,)), data / "labelsTr", PredictOptions(**options))
    assert "phantom_000.nii.gz" in str(caught.value)
    assert str(data / "labelsTr") in str(caught.value)
    assert content(data) == before


def test_a_file_of_a_killed_call_is_known_to_be_ours(run, data, tmp_path):
    """Names are noted before the first file is written, so a call killed between a file and its note can be resumed."""
    model, out = ModelChoice((run,)), tmp_path / "out"
    predict([data / "imagesTr"], model, out)
    journal = out / "finished.jsonl"
    lines = journal.read_text().splitlines()
    assert json.loads(lines[0]) == {"writes": ["phantom_000", "phantom_001"]}
    journal.write_text(lines[0] + "\n")
    assert len(predict([data / "imagesTr"], model, out, PredictOptions(resume=True))["cases"]) == 2


def test_one_labels_file_is_replaced_only_with_overwrite(run, data, tmp_path):
    scan, _ = Phantom(3).acquire(8.0)
    write_image(tmp_path / "scan.nii.gz", scan.data[0], scan)
    (tmp_path / "labels.nii.gz").write_bytes(b"precious")
    with pytest.raises(UsageError, match="the output exists") as caught:
        predict([tmp_path / "scan.nii.gz"], ModelChoice((run,)), tmp_path / "labels.nii.gz")
    assert "--overwrite" in str(caught.value)
    assert (tmp_path / "labels.nii.gz").read_bytes() == b"precious"
    predict([tmp_path / "scan.nii.gz"], ModelChoice((run,)), tmp_path / "labels.nii.gz", PredictOptions(overwrite=True))
    assert (tmp_path / "labels.nii.gz").read_bytes() != b"precious"


@pytest.mark.parametrize("writer", ["atomic_file", "write_json"])
def test_a_score_that_died_at_one_of_its_files_is_known_to_be_ours(data, tmp_path, writer, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(summary, writer, die)
    with pytest.raises(KeyboardInterrupt):
        score(data / "labelsTr", data / "labelsTr", tmp_path / "out", ScoreOptions(surface=False))
    monkeypatch.undo()
    score(data / "labelsTr", data / "labelsTr", tmp_path / "out", ScoreOptions(surface=False, overwrite=True))
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.parametrize("name", ["run.pt", "prepared.zip"])
def test_a_training_and_a_part_of_a_preparation_want_a_folder_name_too(data, prepared, tmp_path, name):
    with pytest.raises(UsageError, match="name of a file"):
        train(prepared, tmp_path / name, load_train_config("smoke"))
    with pytest.raises(UsageError, match="name of a file"):
        preprocess_part(data, tmp_path / name, Shard(1, 2), PreprocessOptions(num_jobs=1))
    assert [path for path in tmp_path.iterdir() if path != data] == []


@pytest.mark.parametrize("name", ["labels.npz", "out.png", "labels.tif", "scores.json"])
def test_the_name_of_a_file_is_not_taken_for_a_folder(run, data, tmp_path, name):
    with pytest.raises(UsageError, match="name of a file"):
        predict([data / "imagesTr"], ModelChoice((run,)), tmp_path / name)
    assert not (tmp_path / name).exists()


def writers(run, data):
    evaluation = {"depths": [3], "upsampled": False, "surface": False, "all_cases": True}
    yield "summary.json", lambda out, **again: evaluate(data, ModelChoice((run,)), out, EvaluateOptions(**evaluation, **again))
    yield "summary.json", lambda out, **again: score(data / "labelsTr", data / "labelsTr", out, ScoreOptions(surface=False, **again))
    yield "manifest.json", lambda out, **again: export(run, out, ExportOptions(entries=[(3, 3, 3)], check=False, **again))
    options = {"num_jobs": 1, "patch_size": (32, 32, 32)}
    yield "prepared.json", lambda out, **again: preprocess(data, out, PreprocessOptions(**options, **again))


@pytest.mark.parametrize("number", range(4), ids=["evaluate", "score", "export", "preprocess"])
def test_every_writer_has_the_same_policy(run, data, tmp_path, number):
    file, write = list(writers(run, data))[number]
    write(tmp_path / "out")
    with pytest.raises(UsageError, match="the output exists") as caught:
        write(tmp_path / "out")
    assert "--overwrite" in str(caught.value)
    write(tmp_path / "out", overwrite=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / (file if number < 2 else "notes.txt")).write_text("precious")
    with pytest.raises(UsageError, match=r"did not write|exists and is not a"):
        write(foreign, overwrite=True)
    assert [path.read_text() for path in foreign.iterdir()] == ["precious"]
