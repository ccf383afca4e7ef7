"""What stands beside the labels of a case: its JSON file, its picture, the tables of labels, the picture in the report."""

import json
import math
import sys

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from html_pages import ReadPage, require_self_contained

from rarecli import Phantom
from rarecli.core.errors import EnvironmentFault, UsageError
from rarecli.core.imaging.volume import write_image
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.reporting.options import ReportOptions


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu") as predictor:
        yield predictor


@pytest.fixture
def scans(tmp_path):
    for number in range(2):
        scan, _ = Phantom(number).acquire(4.0)
        write_image(tmp_path / "in" / f"{number}.nii.gz", scan.data[0], scan)
    return tmp_path / "in"


def test_a_folder_gets_a_file_per_case_that_agrees_with_the_labels(scans, predictor, tmp_path):
    out = tmp_path / "out"
    predict([scans], predictor, out, PredictOptions(picture=True, report=ReportOptions()))
    expected = {"finished.jsonl", "predictions.json", "volumes.csv", "report.html", "labels_itksnap.txt", "labels_slicer.ctbl"}
    expected |= {f"{number}.{suffix}" for number in range(2) for suffix in ("json", "nii.gz", "png")}
    assert {path.name for path in out.iterdir()} == expected
    for number in range(2):
        known, image = json.loads((out / f"{number}.json").read_text()), nib.load(out / f"{number}.nii.gz")
        assert known["Sources"] == [f"{number}.nii.gz"]
        assert (known["Manual"], known["SpatialReference"], known["GeneratedBy"][0]["Name"]) == (False, "orig", "rare-unet")
        assert (known["Precision"], known["NumModels"], known["TestTimeFlips"]) == ("fp32", 1, False)
        for label in known["Labels"]:
            mm3 = np.count_nonzero(np.asarray(image.dataobj) == label["Value"]) * math.prod(image.header.get_zooms())
            assert label["VolumeMm3"] == pytest.approx(mm3, rel=1e-6)
        assert image.header.get_intent()[0] == "label"
    assert '1 0 114 178 1 1 1 "head"' in (out / "labels_itksnap.txt").read_text()
    page = ReadPage((out / "report.html").read_text())
    require_self_contained(page)
    assert sum(address.startswith("data:image/png") for address in page.addresses) == 2


def test_one_file_gets_a_picture_and_nothing_else(scans, predictor, tmp_path):
    predict([scans / "0.nii.gz"], predictor, tmp_path / "one" / "labels.nii.gz", PredictOptions(picture=True))
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"labels.nii.gz", "labels.png"}


def test_a_picture_without_matplotlib_is_refused_before_any_work(scans, predictor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with pytest.raises(EnvironmentFault, match="matplotlib"):
        predict([scans], predictor, tmp_path / "out", PredictOptions(picture=True))
    assert not (tmp_path / "out").exists()
    predict([scans], predictor, tmp_path / "out")


def test_probabilities_are_not_called_labels(scans, predictor, tmp_path):
    predict([scans / "0.nii.gz"], predictor, tmp_path / "labels.nii.gz", PredictOptions(probabilities=True))
    assert nib.load(tmp_path / "labels_probabilities.nii.gz").header.get_intent()[0] == "none"


@pytest.mark.parametrize("lost", ["0.json", "0.png"])
def test_resume_writes_what_was_lost(scans, predictor, tmp_path, lost):
    options = PredictOptions(picture=True)
    predict([scans], predictor, tmp_path / "out", options)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[01].*")}
    (tmp_path / "out" / lost).unlink()
    predict([scans], predictor, tmp_path / "out", PredictOptions(picture=True, resume=True))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[01].*")}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] == before[name]} == {"1.json", "1.nii.gz", "1.png"}


@pytest.mark.parametrize("theirs", ["0.json", "0.png", "labels_itksnap.txt", "labels_slicer.ctbl"])
def test_a_file_of_somebody_else_is_not_replaced(scans, predictor, tmp_path, theirs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / theirs).write_text("theirs")
    with pytest.raises(UsageError, match="did not write") as caught:
        predict([scans], predictor, tmp_path / "out", PredictOptions(picture=True, overwrite=True))
    assert theirs in caught.value.brief
    assert (tmp_path / "out" / theirs).read_text() == "theirs"


@pytest.mark.parametrize("to_file", [True, False])
def test_a_picture_of_somebody_else_beside_our_labels_is_not_replaced(scans, predictor, tmp_path, to_file):
    output, picture = (tmp_path / "0.nii.gz", tmp_path / "0.png") if to_file else (tmp_path / "out", tmp_path / "out" / "0.png")
    predict([scans / "0.nii.gz"], predictor, output)
    matplotlib.image.imsave(picture, np.zeros((4, 4)))
    theirs = picture.read_bytes()
    with pytest.raises(UsageError, match="did not write"):
        predict([scans / "0.nii.gz"], predictor, output, PredictOptions(picture=True, overwrite=True))
    predict([scans / "0.nii.gz"], predictor, output, PredictOptions(overwrite=True))
    assert picture.read_bytes() == theirs


@pytest.mark.parametrize("to_file", [True, False])
@pytest.mark.parametrize(("option", "file"), [("picture", "0.png"), ("probabilities", "0_probabilities.nii.gz")])
def test_what_tells_of_older_labels_does_not_stay_beside_new_ones(scans, predictor, tmp_path, to_file, option, file):
    output, path = (tmp_path / "0.nii.gz", tmp_path / file) if to_file else (tmp_path / "out", tmp_path / "out" / file)
    predict([scans / "0.nii.gz"], predictor, output, PredictOptions(**{option: True}))
    assert path.is_file()
    predict([scans / "0.nii.gz"], predictor, output, PredictOptions(overwrite=True))
    assert not path.exists()


def test_what_tells_of_labels_that_stay_stays(scans, predictor, tmp_path):
    out = tmp_path / "out"
    predict([scans / "0.nii.gz"], predictor, out, PredictOptions(picture=True, probabilities=True))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    predict([scans / "1.nii.gz"], predictor, out / "0.mha")  # another scan, in another format
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "0.mha"} == before


@pytest.mark.parametrize("theirs", ["theirs", "a scan"])
def test_probabilities_of_somebody_else_stay(scans, predictor, tmp_path, theirs):
    path = tmp_path / "0_probabilities.nii.gz"
    path.write_bytes(b"theirs" if theirs == "theirs" else (scans / "1.nii.gz").read_bytes())
    before = path.read_bytes()
    predict([scans / "0.nii.gz"], predictor, tmp_path / "0.nii.gz")
    with pytest.raises(UsageError, match="did not write"):
        predict([scans / "0.nii.gz"], predictor, tmp_path / "0.nii.gz", PredictOptions(probabilities=True, overwrite=True))
    assert path.read_bytes() == before


def test_a_case_may_be_called_probabilities(scans, predictor, tmp_path):
    (scans / "1.nii.gz").rename(scans / "0_probabilities.nii.gz")
    for overwrite in (False, True):
        predict([scans / "0_probabilities.nii.gz"], predictor, tmp_path / "out", PredictOptions(overwrite=overwrite))
    assert nib.load(tmp_path / "out" / "0_probabilities.nii.gz").header.get_intent()[0] == "label"
    predict([scans], predictor, tmp_path / "out", PredictOptions(overwrite=True))  # case 0 leaves the labels of the other one alone
    assert nib.load(tmp_path / "out" / "0_probabilities.nii.gz").header.get_intent()[0] == "label"
    with pytest.raises(UsageError, match="two cases would write one file"):
        predict([scans], predictor, tmp_path / "out", PredictOptions(probabilities=True, overwrite=True))


@pytest.mark.parametrize("name", ["a$b_$c", "_hidden", "caf\udce9"])
def test_any_name_of_a_case_is_drawn(scans, predictor, tmp_path, name):
    scan = (scans / "0.nii.gz").rename(scans / f"{name}.nii.gz")
    predict([scan], predictor, tmp_path / "out", PredictOptions(picture=True))
    assert (tmp_path / "out" / f"{name}.png").is_file()


@pytest.mark.parametrize("name", ["predictions", "predictions_1of4", "dataset", "run"])
def test_a_case_may_not_take_the_place_of_the_records(scans, predictor, tmp_path, name):
    scan = (scans / "0.nii.gz").rename(scans / f"{name}.nii.gz")
    with pytest.raises(UsageError, match="a meaning of its own in a folder"):
        predict([scan], predictor, tmp_path / "out")
    predict([scan], predictor, tmp_path / "labels.nii.gz")
