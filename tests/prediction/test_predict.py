import json

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.errors import SomeCasesFailed, UsageError
from rarecli.core.jobs.shards import Shard
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu", backend="torch") as predictor:
        yield predictor


def test_two_processes_write_what_one_does(phantom_dataset, predictor, tmp_path):
    scans = sorted((phantom_dataset / "imagesTr").glob("*.nii.gz"))[:3]
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    for name, num_processes in (("one", 1), ("two", 2)):
        with pytest.raises(SomeCasesFailed, match="1 of 4 cases failed\n  bad"):
            predict([bad, *scans], predictor, tmp_path / name, PredictOptions(num_processes=num_processes))
    for scan in scans:
        one, two = (np.asarray(nib.load(tmp_path / name / scan.name).dataobj) for name in ("one", "two"))
        np.testing.assert_array_equal(one, two)
    one, two = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("one", "two"))
    assert list(one["cases"]) == list(two["cases"])
    assert one["failed"] == two["failed"]


def test_shards_are_the_whole_and_share_nothing(phantom_dataset, predictor, tmp_path):
    scans = sorted((phantom_dataset / "imagesTr").glob("*.nii.gz"))[:3]
    for number in (1, 2):
        predict(scans, predictor, tmp_path, PredictOptions(shard=Shard(number, 2)))
    parts = [list(json.loads((tmp_path / f"predictions_{number}of2.json").read_text())["cases"]) for number in (1, 2)]
    assert sorted(parts[0] + parts[1]) == [scan.name.removesuffix(".nii.gz") for scan in scans]
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == {scan.name for scan in scans}


def test_a_shard_beyond_the_cases_has_nothing_to_do(phantom_dataset, predictor, tmp_path):
    scan = next((phantom_dataset / "imagesTr").glob("*.nii.gz"))
    assert predict([scan], predictor, tmp_path, PredictOptions(shard=Shard(2, 2)))["cases"] == {}


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="invalid shard"):
        Shard.parse(text)


def test_any_number_of_shards_is_a_partition():
    for num in range(1, 9):
        parts = [Shard(number, num).of(range(7)) for number in range(1, num + 1)]
        assert sorted(item for part in parts for item in part) == list(range(7))
