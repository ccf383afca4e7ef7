"""`--scheduler`: a real Dask scheduler and real workers over TCP, against one process on this machine."""

import json
import signal
from pathlib import Path

import pytest
from dask_processes import KILLED_BY_POISON, WITHOUT_RARE, DaskCluster, blind_to, dask_cluster, end

from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import EnvironmentFault, SomeCasesFailed, UsageError
from rarecli.core.jobs import cluster
from rarecli.core.jobs.progress import Silent
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import ModelChoice


class Watcher(Silent):
    """Notes what is on the disk when a case was journaled. at: called after that many cases."""

    def __init__(self, output, at=0, call=lambda: None):
        self.output, self.at, self.call = output, at, call
        self.finished, self.warnings = {}, []

    def say(self, text):
        name = text.partition(":")[0]
        if name.startswith("phantom_"):
            assert name not in self.finished
            self.finished[name] = self.status(name)
            if len(self.finished) == self.at:
                self.call()

    def warn(self, text):
        self.warnings.append(text)

    def status(self, name):
        found = (self.output / f"{name}.nii.gz").stat()
        return found.st_ino, found.st_mtime_ns

    def require_untouched(self):
        """Nothing was written again after its case was in the journal."""
        assert {name: self.status(name) for name in self.finished} == self.finished


def journaled(output):
    lines = [json.loads(line) for line in (output / "finished.jsonl").read_text().splitlines()]
    return [line["case"] for line in lines if "case" in line]


def files(output):
    return {path.name: path.read_bytes() for path in output.glob("*.nii.gz")}


def timeless(result):
    """Return the records of predictions.json in their order, without times."""
    return [(name, {key: value for key, value in record.items() if key != "seconds"}) for name, record in result["cases"].items()]


@pytest.fixture(scope="module")
def choice():
    return ModelChoice((Path("hippocampus"),), "cpu", "openvino", 1)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster", 2) as cluster:
        yield cluster


def scans(folder, num):
    write_phantoms(folder, range(num), 8.0)
    return folder / "imagesTr"


def test_a_cluster_writes_what_one_process_does_and_resumes_it(choice, two_workers, tmp_path):
    inputs, one, output = scans(tmp_path / "data", 6), tmp_path / "one", tmp_path / "cluster"
    (inputs / "bad.nii.gz").write_bytes(b"no scan")
    here = PredictOptions(probabilities=True)
    there = PredictOptions(probabilities=True, scheduler=two_workers.address)
    with pytest.raises(SomeCasesFailed, match="1 of 7 cases failed\n  bad") as expected:
        predict([inputs], choice, one, here)
    with pytest.raises(SomeCasesFailed, match="1 of 7 cases failed\n  bad") as found:
        predict([inputs], choice, output, there)
    assert files(output) == files(one)
    assert len(files(one)) == 12
    assert timeless(found.value.result) == timeless(expected.value.result)
    assert found.value.failures == expected.value.failures

    (inputs / "bad.nii.gz").unlink()
    (output / "phantom_003.nii.gz").unlink()
    watcher = Watcher(output)
    resumed = predict([inputs], choice, output, PredictOptions(probabilities=True, resume=True, scheduler=two_workers.address), watcher)
    assert list(watcher.finished) == ["phantom_003"]
    assert timeless(resumed) == timeless(expected.value.result)
    assert files(output) == files(one)


def test_a_cluster_takes_relative_paths_and_one_scan(choice, two_workers, tmp_path, monkeypatch):
    scans(tmp_path / "data", 1)
    monkeypatch.chdir(tmp_path)
    here, there = PredictOptions(), PredictOptions(scheduler=two_workers.address)
    image = (tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz").relative_to(tmp_path)
    predict([image], choice, tmp_path / "one.nii.gz", here)
    predict([image], choice, image.parent.parent / "cluster.nii.gz", there)
    assert (tmp_path / "data" / "cluster.nii.gz").read_bytes() == (tmp_path / "one.nii.gz").read_bytes()


def test_a_cluster_prepares_what_one_machine_does(two_workers, tmp_path, monkeypatch):
    inputs = scans(tmp_path / "data", 4)
    (inputs / "phantom_002.nii.gz").write_bytes(b"no scan")
    monkeypatch.chdir(tmp_path)
    for output, here_or_there in (("one", {"num_jobs": 1}), ("cluster", {"scheduler": two_workers.address})):
        with pytest.raises(SomeCasesFailed, match="1 of 4 cases failed\n  phantom_002"):
            preprocess(Path("data"), Path(output), PreprocessOptions(3, spacing_mm=(8.0,) * 3, **here_or_there))
    one, there = ({path.name: path.read_bytes() for path in Path(name).rglob("*.*")} for name in ("one", "cluster"))
    assert there == one
    assert len(one) == 4


def refused(address, choice, tmp_path, kind=EnvironmentFault):
    """Return the error of a predict that must end before any work."""
    inputs, output = scans(tmp_path / "data", 1), tmp_path / "out"
    with pytest.raises(kind) as error:
        predict([inputs], choice, output, PredictOptions(scheduler=address))
    assert not output.exists() or not list(output.iterdir())
    return str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tcp://127.0.0.1", "http://127.0.0.1:80"])
def test_an_invalid_address_is_refused(address, choice, tmp_path):
    assert "invalid address of a scheduler" in refused(address, choice, tmp_path, UsageError)


def test_processes_here_and_there_exclude_each_other(choice, tmp_path):
    with pytest.raises(UsageError, match="a cluster has its own processes"):
        predict([tmp_path], choice, tmp_path / "out", PredictOptions(num_processes=2, scheduler="tcp://127.0.0.1:1"))


def test_a_worker_that_does_not_see_the_folder_is_refused(choice, two_workers, tmp_path):
    two_workers.start_workers(1, blind_to(tmp_path / "data"))
    found = refused(two_workers.wait().address, choice, tmp_path)
    blind = two_workers.workers.pop()
    blind.kill()
    blind.wait()
    assert "does not see the files" in found
    assert f"path: {tmp_path / 'data' / 'imagesTr'}" in found


@pytest.fixture
def bare(tmp_path):
    """A cluster without a process yet."""
    (tmp_path / "dask").mkdir()
    cluster = DaskCluster(tmp_path / "dask")
    yield cluster
    end(cluster)


def test_a_scheduler_that_is_not_there_is_refused(bare, choice, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    assert "no Dask scheduler answers" in refused(bare.address, choice, tmp_path)


@pytest.mark.slow
def test_a_scheduler_without_rare_is_refused(bare, choice, tmp_path):
    bare.start_scheduler(WITHOUT_RARE)
    assert "does not have rare" in refused(bare.wait().address, choice, tmp_path)


@pytest.mark.slow
def test_another_version_is_refused(bare, choice, tmp_path):
    facts = tmp_path / "other" / "rare_unet-9.9.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text("Metadata-Version: 2.1\nName: rare-unet\nVersion: 9.9\n")
    bare.start_scheduler()
    bare.start_workers(1, python_path=[tmp_path / "other"])
    found = refused(bare.wait().address, choice, tmp_path)
    assert "has another version of rare\n  found: 9.9" in found


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_100_scans_changes_nothing(choice, tmp_path):
    inputs, one, output = scans(tmp_path / "data", 100), tmp_path / "one", tmp_path / "cluster"
    predict([inputs], choice, one)
    with dask_cluster(tmp_path / "dask", 3) as cluster:
        watcher = Watcher(output, 40, lambda: cluster.workers[1].send_signal(signal.SIGKILL))
        result = predict([inputs], choice, output, PredictOptions(scheduler=cluster.address), watcher)
        assert cluster.workers[1].wait(0) == -signal.SIGKILL
    names = [f"phantom_{number:03d}" for number in range(100)]
    assert list(result["cases"]) == names
    assert sorted(journaled(output)) == names
    assert files(output) == files(one)
    watcher.require_untouched()
    assert any("is lost; what it had is done again" in warning for warning in watcher.warnings)
    assert {path.name for path in output.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.slow
def test_a_case_that_kills_two_workers_is_left_out(choice, tmp_path):
    inputs, output = scans(tmp_path / "data", 12), tmp_path / "out"
    (inputs / "phantom_000.nii.gz").rename(inputs / "poison.nii.gz")
    with dask_cluster(tmp_path / "dask", 3, KILLED_BY_POISON) as cluster:
        with pytest.raises(SomeCasesFailed, match="1 of 12 cases failed\n  poison  it lost its worker twice") as error:
            predict([inputs], choice, output, PredictOptions(scheduler=cluster.address))
        assert sorted(process.poll() is None for process in cluster.workers) == [False, False, True]
    assert len(error.value.result["cases"]) == len(journaled(output)) == len(files(output)) == 11
