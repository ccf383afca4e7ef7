"""--shard I/N of preprocess, predict and evaluate: shards as in a job array, then one call with --resume."""

import json
import shutil
import subprocess
import sys

import pytest

from rarecli import Predictor
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess, preprocess_part
from rarecli.core.errors import EnvironmentFault, SomeCasesFailed, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.jobs.folders import resumable_folder, shared_folder
from rarecli.core.jobs.shards import Shard

OPTIONS = PreprocessOptions(num_jobs=1, num_levels=3, patch_size=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0))


@pytest.fixture
def dataset(tmp_path):
    write_phantoms(tmp_path / "data", range(5), 8.0)
    return tmp_path / "data"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def together(*calls):
    """Run `rare` with each list of arguments at the same time, in separate processes. Return their stderr and JSON."""
    command = [sys.executable, "-m", "rarecli"]
    started = [subprocess.Popen([*command, *map(str, call)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for call in calls]
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * len(calls), [stderr for _, stderr in ended]
    return [(stderr, json.loads(stdout)) for stdout, stderr in ended]


def test_parts_prepared_at_once_are_the_dataset_prepared_in_one_go(dataset, tmp_path):
    arguments = ["preprocess", dataset, "--num-levels", 3, "--patch-size", "16,16,16", "--spacing", "2,2,2", "--jobs", 1, "--json"]
    parts = together(*([*arguments, "-o", tmp_path / "parts", "--shard", f"{number}/2"] for number in (1, 2)))
    assert [result["cases"] for _, result in parts] == [["phantom_000", "phantom_002", "phantom_004"], ["phantom_001", "phantom_003"]]
    assert "part 1/2 is done: 3 cases; after all parts, --resume" in parts[0][0]
    assert not (tmp_path / "parts").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".parts.unfinished" / "cases").iterdir()}
    together([*arguments, "-o", tmp_path / "parts", "--resume"])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "cases").iterdir()} == kept
    preprocess(dataset, tmp_path / "whole", OPTIONS)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "parts", "whole"]


def test_parts_scored_at_once_are_the_dataset_scored_in_one_go(dataset, bundle, tmp_path):
    arguments = ["evaluate", dataset, "-m", bundle, "--backend", "onnx", "--depths", "0,1", "--no-surface", "--no-report", "--json"]
    parts = together(*([*arguments, "-o", tmp_path / "parts", "--shard", f"{number}/2"] for number in (1, 2)))
    assert sorted(parts[0][1]["cases"] + parts[1][1]["cases"]) == [f"phantom_{seed:03d}" for seed in range(5)]
    assert not (tmp_path / "parts" / "summary.json").exists()
    [(_, resumed)] = together([*arguments, "-o", tmp_path / "parts", "--resume"])
    with Predictor(bundle, backend="onnx") as predictor:
        assert evaluate(dataset, predictor, tmp_path / "whole", EvaluateOptions(depths=[0, 1], surface=False)) == resumed
    assert contents(tmp_path / "parts").keys() == contents(tmp_path / "whole").keys()
    for name in ("summary.json", "cases.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_parts_predicted_at_once_are_the_folder_predicted_in_one_go(dataset, bundle, tmp_path):
    arguments = ["predict", dataset / "imagesTr", "-m", bundle, "--backend", "onnx", "--json"]
    together(*([*arguments, "-o", tmp_path / "parts", "--shard", f"{number}/2"] for number in (1, 2)))
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.nii.gz")}
    [(_, resumed)] = together([*arguments, "-o", tmp_path / "parts", "--resume"])
    [(_, whole)] = together([*arguments, "-o", tmp_path / "whole"])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.nii.gz")} == written
    assert list(resumed["cases"]) == list(whole["cases"])
    assert json.loads((tmp_path / "parts" / "predictions.json").read_text()) == resumed
    for name, record in whole["cases"].items():
        assert record | {"seconds": 0} == resumed["cases"][name] | {"seconds": 0}


def test_a_part_tells_of_its_bad_cases_and_goes_on(dataset, bundle, tmp_path):
    sound = shutil.copy(dataset / "imagesTr" / "phantom_002.nii.gz", tmp_path / "sound.nii.gz")
    (dataset / "imagesTr" / "phantom_002.nii.gz").write_bytes(b"broken")
    with pytest.raises(SomeCasesFailed, match="1 of 3 cases failed\n  phantom_002") as prepared:
        preprocess_part(dataset, tmp_path / "out", Shard(1, 2), OPTIONS)
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(SomeCasesFailed, match="1 of 3 cases failed") as scored:
        evaluate(dataset, predictor, tmp_path / "scores", EvaluateOptions(depths=[1], surface=False, shard=Shard(1, 2)))
    for failure in (prepared, scored):
        assert list(failure.value.result["failed"]) == ["phantom_002"]
    shutil.copy(sound, dataset / "imagesTr" / "phantom_002.nii.gz")
    assert preprocess_part(dataset, tmp_path / "out", Shard(1, 2), OPTIONS)["failed"] == {}


def test_more_parts_than_cases_leave_some_without_work(dataset, bundle, tmp_path):
    assert preprocess_part(dataset, tmp_path / "out", Shard(7, 8), OPTIONS)["cases"] == []
    with Predictor(bundle, backend="onnx") as predictor:
        assert evaluate(dataset, predictor, tmp_path / "scores", EvaluateOptions(surface=False, shard=Shard(7, 8)))["cases"] == []


def test_parts_share_a_folder_that_nobody_has_alone(tmp_path):
    with shared_folder(tmp_path / "out") as one, shared_folder(tmp_path / "out") as other:
        assert one == other
        with pytest.raises(EnvironmentFault, match="another process"), resumable_folder(tmp_path / "out", resume=True):
            pass
    with (
        resumable_folder(tmp_path / "out", resume=True),
        pytest.raises(EnvironmentFault, match="another process"),
        shared_folder(tmp_path / "out"),
    ):
        pass


def test_a_part_is_not_compared(dataset, bundle, tmp_path):
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(UsageError, match="a shard cannot be compared"):
        evaluate(dataset, predictor, tmp_path / "scores", EvaluateOptions(shard=Shard(1, 2), against=tmp_path / "other"))
