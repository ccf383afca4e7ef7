"""--resume of an interrupted batch: only missing cases are processed, and stale ones again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from rarecli import Phantom, Predictor
from rarecli.core.data import preprocess_case
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import DataError, EnvironmentFault, SomeCasesFailed, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.jobs.folders import resumable_folder
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.regions import Where


class Counting(Predictor):
    """Counts its predictions."""

    num_asked = 0

    def segment(self, *arguments, **options):
        self.num_asked += 1
        return super().segment(*arguments, **options)


@pytest.fixture
def predictor(bundle):
    with Counting(bundle, backend="onnx") as loaded:
        yield loaded


@pytest.fixture
def source(tmp_path):
    """Write a dataset of three small phantoms, the second of them broken."""
    write_phantoms(tmp_path / "data", range(3), 8.0)
    shutil.copy(image_of(tmp_path, 1), tmp_path / "sound.nii.gz")
    image_of(tmp_path, 1).write_bytes(b"broken")
    return tmp_path / "data"


def image_of(folder, seed):
    return folder / "data" / "imagesTr" / f"phantom_{seed:03d}.nii.gz"


def asked_by(predictor, action):
    """Return how many predictions an action needed, and its result or error."""
    before = predictor.num_asked
    try:
        result = action()
    except SomeCasesFailed as failure:
        result = failure
    return predictor.num_asked - before, result


def test_predict_does_what_is_missing_and_what_is_stale(predictor, source, tmp_path):
    def ask(**options):
        return asked_by(predictor, lambda: predict([source / "imagesTr"], predictor, tmp_path / "out", PredictOptions(**options)))

    num, failure = ask()
    assert (num, list(failure.failures)) == (2, ["phantom_001"])
    shutil.copy(tmp_path / "sound.nii.gz", image_of(tmp_path, 1))
    num, result = ask(resume=True)
    assert num == 1
    assert list(result["cases"]) == ["phantom_000", "phantom_001", "phantom_002"]
    assert result == json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert ask(resume=True) == (0, result)
    # a missing labels file, a changed scan, an option, missing probabilities
    (tmp_path / "out" / "phantom_000.nii.gz").unlink()
    shutil.copy(image_of(tmp_path, 0), image_of(tmp_path, 2))
    assert ask(resume=True)[0] == 2
    assert ask(resume=True, entry=(2, 2, 2))[0] == 3
    assert ask(resume=True, entry=(2, 2, 2), probabilities=True)[0] == 3
    (tmp_path / "out" / "phantom_000_probabilities.nii.gz").unlink()
    assert ask(resume=True, entry=(2, 2, 2), probabilities=True)[0] == 1
    with pytest.raises(UsageError, match="the output exists"):
        ask()
    assert ask(overwrite=True)[0] == 3


def test_another_model_makes_all_results_stale(predictor, run, tmp_path):
    scan, _ = Phantom(0).acquire(8.0)
    write_image(tmp_path / "in" / "a.nii.gz", scan.data[0], scan)
    predict([tmp_path / "in"], predictor, tmp_path / "out")
    with Counting(run, device="cpu") as other:
        for expected in (1, 0):
            assert asked_by(other, lambda: predict([tmp_path / "in"], other, tmp_path / "out", PredictOptions(resume=True)))[0] == expected
    changed = shutil.copytree(run, tmp_path / "run")
    shutil.copy(run / "best.safetensors", changed / "weights.safetensors")
    description = json.loads((changed / "run.json").read_text())
    description["spec"]["as_is_octaves"] = 0.5
    (changed / "run.json").write_text(json.dumps(description))
    with Predictor(run, device="cpu") as one, Predictor(changed, device="cpu") as other:
        assert one.key != other.key


def test_one_file_cannot_be_resumed(predictor, tmp_path):
    scan, _ = Phantom(0).acquire(8.0)
    write_image(tmp_path / "a.nii.gz", scan.data[0], scan)
    with pytest.raises(UsageError, match="only a folder"):
        predict([tmp_path / "a.nii.gz"], predictor, tmp_path / "b.nii.gz", PredictOptions(resume=True))


def test_evaluate_does_what_is_missing_and_gives_what_one_go_gives(predictor, source, tmp_path):
    def score(output, **options):
        options = {"depths": [0, 1], "upsampled": False, "surface": False, "all_cases": True} | options
        return asked_by(predictor, lambda: evaluate(source, predictor, tmp_path / output, EvaluateOptions(**options)))

    num, failure = score("out")
    assert (num, list(failure.failures)) == (4, ["phantom_001"])
    assert list(failure.result["failed"]) == ["phantom_001"]
    shutil.copy(tmp_path / "sound.nii.gz", image_of(tmp_path, 1))
    num, resumed = score("out", resume=True)
    assert num == 2
    assert score("at once") == (6, resumed)
    for name in ("summary.json", "cases.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    assert score("out", resume=True) == (0, resumed)
    shutil.copy(source / "labelsTr" / "phantom_000.nii.gz", source / "labelsTr" / "phantom_002.nii.gz")
    assert score("out", resume=True)[0] == 2
    assert score("out", resume=True, depths=[1])[0] == 3


OPTIONS = {"num_jobs": 1, "num_levels": 3, "patch_size": (16, 16, 16), "spacing_mm": (2.0, 2.0, 2.0)}


@pytest.fixture
def worked(monkeypatch):
    """Record the names of the cases that are prepared, not kept; the work runs in this process."""
    names = []
    real = preprocess_case._prepare_case

    def count(case, *rest):
        names.append(case.name)
        return real(case, *rest)

    monkeypatch.setattr(preprocess_case, "_prepare_case", count)
    monkeypatch.setattr("rarecli.core.jobs.workers.ProcessPoolExecutor", Here)
    return names


class Here:
    """A pool that runs in this process."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, work, items, chunksize=1):
        return map(work, items)

    def shutdown(self, **_):
        pass


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_preprocess_does_what_is_missing_and_what_is_stale(source, tmp_path, worked):
    def prepare(output="out", **options):
        worked.clear()
        with suppress(SomeCasesFailed):
            preprocess(source, tmp_path / output, PreprocessOptions(**OPTIONS | options))
        return sorted(set(worked))

    everything = [f"phantom_{seed:03d}" for seed in range(3)]
    assert prepare() == everything
    assert list(open_prepared(tmp_path / "out").index.failed) == ["phantom_001"]
    shutil.copy(tmp_path / "sound.nii.gz", image_of(tmp_path, 1))
    assert prepare(resume=True) == ["phantom_001"]
    assert prepare("at once") == everything
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")
    assert prepare(resume=True) == []
    with pytest.raises(UsageError, match="the output exists"):
        prepare()
    assert prepare(overwrite=True) == everything
    # fault 35, a truncated file; fault 36, a changed plan; a changed scan; a removed case
    cut = tmp_path / "out" / "cases" / "phantom_000.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert prepare(resume=True) == ["phantom_000"]
    assert prepare(resume=True, spacing_mm=(4.0, 4.0, 4.0)) == everything
    shutil.copy(image_of(tmp_path, 0), image_of(tmp_path, 2))
    assert prepare(resume=True, spacing_mm=(4.0, 4.0, 4.0)) == ["phantom_002"]
    description = json.loads((source / "dataset.json").read_text())
    description |= {"training": description["training"][:2], "numTraining": 2}
    (source / "dataset.json").write_text(json.dumps(description))
    assert prepare(resume=True, spacing_mm=(4.0, 4.0, 4.0)) == []
    assert sorted(path.stem for path in (tmp_path / "out" / "cases").iterdir()) == everything[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at once", "data", "out", "sound.nii.gz"]


SLOWLY = """
import sys, time
from rarecli.cli import main
from rarecli.core.data import preprocess_case
real = preprocess_case._prepare_case
def slowly(*arguments):
    result = real(*arguments)
    time.sleep(0.5)
    return result
preprocess_case._prepare_case = slowly  # also in the worker, which runs this file again
if __name__ == "__main__":
    main()
"""


def test_a_killed_preprocess_goes_on_where_it_was(tmp_path):
    write_phantoms(tmp_path / "data", range(20), 8.0)
    (tmp_path / "slowly.py").write_text(SLOWLY)
    arguments = ["preprocess", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--jobs", "1", "--patch-size", "32,32,32"]
    unfinished = tmp_path / ".out.unfinished" / "cases"
    process = subprocess.Popen([sys.executable, str(tmp_path / "slowly.py"), *arguments], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(unfinished.glob("phantom*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # its worker too: the group was just started here
    process.wait()
    assert not (tmp_path / "out").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("phantom*.safetensors")}
    command = [sys.executable, "-m", "rarecli", *arguments, "--resume"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(open_prepared(tmp_path / "out").records) == 20
    assert {name: (tmp_path / "out" / "cases" / name).stat().st_mtime_ns for name in kept} == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out", "slowly.py"]


def test_a_call_that_fails_leaves_what_earlier_ones_did(tmp_path):
    with suppress(KeyboardInterrupt), resumable_folder(tmp_path / "out", resume=False) as folder:
        (folder / "part").write_text("the work of many")
        raise KeyboardInterrupt
    for resume in (True, False):
        with pytest.raises(DataError), resumable_folder(tmp_path / "out", resume=resume):
            raise DataError("no case can be read")
        assert folder.exists() == resume


def test_two_processes_do_not_write_one_output(tmp_path):
    with resumable_folder(tmp_path / "out", resume=False) as folder:
        (folder / "part").write_text("x")
        with pytest.raises(EnvironmentFault, match="another process"), resumable_folder(tmp_path / "out", resume=True):
            pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part"]
    with resumable_folder(tmp_path / "out", resume=False) as folder:  # the lock ended with the first process
        assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def in_two_files(tmp_path, folder, suffix):
    """Write images/a.nii.gz and labels/a with a file of voxels beside its header; return that file."""
    image, labels = Phantom(0).acquire(8.0)
    write_image(tmp_path / folder / "images" / "a.nii.gz", image.data[0], image)
    write_labels(tmp_path / folder / "labels" / f"a{suffix}", labels.data[0], labels)
    return tmp_path / folder / "labels" / {".mhd": "a.raw", ".hdr": "a.img"}[suffix]


@pytest.mark.parametrize("suffix", [".mhd", ".hdr"])
def test_voxels_beside_an_unchanged_header_are_part_of_what_resume_compares(predictor, tmp_path, worked, suffix):
    voxels = in_two_files(tmp_path, "data", suffix)

    def prepare():
        worked.clear()
        preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(**OPTIONS, resume=True))
        return worked

    def score():
        options = EvaluateOptions(depths=[0], upsampled=False, surface=False, all_cases=True, resume=True)
        return asked_by(predictor, lambda: evaluate(tmp_path / "data", predictor, tmp_path / "scores", options))[0]

    def segment():
        roi = voxels.with_suffix(suffix)
        options = PredictOptions(where=Where(roi), resume=True)
        return asked_by(predictor, lambda: predict([tmp_path / "data" / "images"], predictor, tmp_path / "out", options))[0]

    assert (prepare(), score(), segment()) == (["a"], 1, 1)
    assert (prepare(), score(), segment()) == ([], 0, 0)
    content = bytearray(voxels.read_bytes())
    content[content.index(1)] = 2
    voxels.write_bytes(content)
    assert (prepare(), score(), segment()) == (["a"], 1, 1)
