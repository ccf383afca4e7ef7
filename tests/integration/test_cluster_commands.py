"""`--scheduler` of `preprocess`, `evaluate` and `score`: a real Dask scheduler and real workers, against this machine alone."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from dask_processes import KILLED_BY_POISON, blind_to, dask_cluster

from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import EnvironmentFault, SomeCasesFailed, UsageError
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.score import ScoreOptions, score
from rarecli.core.jobs.progress import Silent
from rarecli.core.prediction.predictor import ModelChoice

COMMANDS = ("preprocess", "evaluate", "score")


class Watcher(Silent):
    """Counts the cases that ended. at: called after that many."""

    def __init__(self, at=0, call=lambda: None):
        self.at, self.call, self.num, self.warnings = at, call, 0, []

    def track(self, items, label, total, costs=None):
        for item in items:
            yield item
            self.num += 1
            if self.num == self.at:
                self.call()

    def warn(self, text):
        self.warnings.append(text)


def call(command, run, data, output, reporter=Silent(), **options):
    """Call a command on a labelled dataset; references are scored against themselves."""
    if command == "preprocess":
        options = {"num_levels": 3, "spacing_mm": (8.0,) * 3} | options
        return preprocess(data, output, PreprocessOptions(**({"num_jobs": 1} if "scheduler" not in options else {}), **options), reporter)
    if command == "evaluate":
        options |= {"depths": [0], "upsampled": False, "surface": False, "all_cases": True}
        return evaluate(data, ModelChoice((run,), "cpu", "torch", 1), output, EvaluateOptions(**options), reporter)
    return score(data / "labelsTr", data / "predicted", output, ScoreOptions(surface=False, **options), reporter)


def dataset(folder, num):
    write_phantoms(folder, range(num), 8.0)
    shutil.copytree(folder / "labelsTr", folder / "predicted")
    return folder


def rename(data, name, new):
    for folder in ("imagesTr", "labelsTr", "predicted"):
        (data / folder / f"{name}.nii.gz").rename(data / folder / f"{new}.nii.gz")
    facts = (data / "dataset.json").read_text()
    (data / "dataset.json").write_text(facts.replace(name, new))


def contents(output):
    """Return every file by its path but the journal, whose lines come as the cases end, and pictures, which hold the versions of fonts."""
    files = [path for path in output.rglob("*") if path.is_file() and path.suffix not in (".jsonl", ".png")]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def journaled(output):
    lines = [json.loads(line) for line in (output / "finished.jsonl").read_text().splitlines()]
    return [line["case"] for line in lines if "case" in line]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster", 2) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_writes_what_one_machine_does_and_resumes_it(command, run, two_workers, tmp_path, monkeypatch):
    data, address = dataset(tmp_path / "data", 6), two_workers.address
    bad = data / ("predicted" if command == "score" else "imagesTr") / "phantom_004.nii.gz"
    sound = bad.read_bytes()
    bad.write_bytes(b"no scan")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SomeCasesFailed, match="1 of 6 cases failed\n  phantom_004") as expected:
        call(command, run, data, tmp_path / "one")
    with pytest.raises(SomeCasesFailed, match="1 of 6 cases failed\n  phantom_004") as found:
        call(command, run, Path("data"), Path("cluster"), scheduler=address)
    assert found.value.result == expected.value.result
    assert found.value.failures == expected.value.failures
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")

    bad.write_bytes(sound)
    call(command, run, data, tmp_path / "sound")
    call(command, run, data, tmp_path / "cluster", resume=True, scheduler=address)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "sound")
    if command != "preprocess":  # whose journal are the files of the cases
        assert journaled(tmp_path / "cluster")[5:] == ["phantom_004"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_worker_killed_in_the_middle_of_30_cases_changes_nothing(command, run, tmp_path):
    data = dataset(tmp_path / "data", 30)
    call(command, run, data, tmp_path / "one")
    with dask_cluster(tmp_path / "dask", 3) as cluster:
        watcher = Watcher(10, lambda: os.kill(cluster.workers[1].pid, signal.SIGKILL))
        call(command, run, data, tmp_path / "cluster", watcher, scheduler=cluster.address)
        assert cluster.workers[1].wait(60) == -signal.SIGKILL
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")
    assert watcher.num == 30
    if command != "preprocess":
        assert sorted(journaled(tmp_path / "cluster")) == [f"phantom_{number:03d}" for number in range(30)]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_case_that_kills_two_workers_is_left_out(command, run, tmp_path):
    data = dataset(tmp_path / "data", 8)
    rename(data, "phantom_000", "poison")
    with dask_cluster(tmp_path / "dask", 3, KILLED_BY_POISON) as cluster:
        with pytest.raises(SomeCasesFailed, match="1 of 8 cases failed\n  poison  it lost its worker twice"):
            call(command, run, data, tmp_path / "cluster", scheduler=cluster.address)
        assert sorted(process.poll() is None for process in cluster.workers) == [False, False, True]
    shutil.rmtree(data)
    dataset(data, 8)
    for folder in ("imagesTr", "labelsTr", "predicted"):
        (data / folder / "phantom_000.nii.gz").unlink()
    facts = json.loads((data / "dataset.json").read_text())
    facts |= {"numTraining": 7, "training": [item for item in facts["training"] if "phantom_000" not in item["image"]]}
    (data / "dataset.json").write_text(json.dumps(facts))
    call(command, run, data, tmp_path / "others")
    found, others = contents(tmp_path / "cluster"), contents(tmp_path / "others")
    assert found.keys() == others.keys()
    different = {name for name in found if found[name] != others[name]}
    assert different == {"prepared.json" if command == "preprocess" else "summary.json"}  # it names the case that failed


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_worker_that_does_not_see_the_files_is_refused_before_any_work(command, run, two_workers, tmp_path):
    data = dataset(tmp_path / "data", 2)
    two_workers.start_workers(1, blind_to(data))
    two_workers.wait()
    try:
        with pytest.raises(EnvironmentFault, match="does not see the files"):
            call(command, run, data, tmp_path / "out", scheduler=two_workers.address)
    finally:
        blind = two_workers.workers.pop()
        blind.kill()
        blind.wait()
    assert not contents(tmp_path / "out")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_invalid_address_is_refused(command, tmp_path):
    with pytest.raises(UsageError, match="invalid address of a scheduler"):
        call(command, tmp_path, tmp_path, tmp_path / "out", scheduler="127.0.0.1:8786")


def test_jobs_here_and_a_scheduler_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="a cluster has its own processes"):
        preprocess(tmp_path, tmp_path / "out", PreprocessOptions(num_jobs=2, scheduler="tcp://127.0.0.1:1"))
