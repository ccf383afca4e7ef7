"""What export/triton/client.py writes and what it refuses before it asks the server, which is not there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.errors import DataError, EnvironmentFault, RareError, UsageError
from rarecli.core.imaging.volume import Volume, write_image
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Prediction

sys.path.insert(0, str(Path(__file__).parents[2] / "export" / "triton"))
import client


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for name in ("a", "b"):
        scan, _ = Phantom(0).acquire(8.0)
        write_image(folder / f"{name}.nii.gz", scan.data[0], scan)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command; returns its exit code and what it wrote to stderr. The server answers every voxel with the label 1."""

    def answer(_self, volume, *, depth=None, entry=None, probabilities=False):
        maps = np.zeros((3, *volume.shape), np.float32) if probabilities else None
        chosen = entry or (depth or 0,) * 3
        return Prediction(np.ones(volume.shape, np.uint8), volume.affine, chosen, "a test", (1.0, 1.0, 1.0), maps, 0.0, ())

    monkeypatch.setattr(client.Client, "predict", answer)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["client.py", *map(str, arguments)])
        exit_code = client.main()
        return exit_code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", ["out.png", "out.npz", "out.txt"])
def test_the_name_of_another_file_is_a_usage_error(name, scans, tmp_path, call):
    exit_code, words = call(scans / "a.nii.gz", "-o", tmp_path / name)
    assert exit_code == 2
    assert "the output is a folder, but this is the name of a file" in words
    assert not (tmp_path / name).exists()


def test_several_scans_do_not_fit_one_file_and_a_scan_is_not_replaced(scans, tmp_path, call):
    assert call(scans, "-o", tmp_path / "one.nii.gz")[0] == 2
    before = (scans / "a.nii.gz").read_bytes()
    exit_code, words = call(scans / "a.nii.gz", "-o", scans / "a.nii.gz", "--overwrite")
    assert exit_code == 2
    assert "the output would replace the scan" in words
    assert (scans / "a.nii.gz").read_bytes() == before


@pytest.mark.parametrize("suffix", ["", "_probabilities"])
def test_a_file_is_replaced_only_with_overwrite_and_the_words_are_those_of_rare_predict(suffix, scans, tmp_path, call, bundle):
    there = tmp_path / f"a{suffix}.nii.gz"
    there.write_bytes(b"precious")
    arguments = (scans / "a.nii.gz", "-o", tmp_path / "a.nii.gz", "--probabilities")
    exit_code, words = call(*arguments)
    assert exit_code == 2
    assert there.read_bytes() == b"precious"
    with Predictor(bundle, backend="onnx") as predictor, pytest.raises(RareError) as expected:
        predict([scans / "a.nii.gz"], predictor, tmp_path / "a.nii.gz", PredictOptions(probabilities=True))
    assert words == f"Error: {expected.value}\n"
    is_named = not suffix  # by -o; beside it, only what rare wrote is replaced
    assert call(*arguments, "--overwrite")[0] == (0 if is_named else 2)
    assert (there.read_bytes() != b"precious") == is_named


@pytest.mark.parametrize("name", ["a.nii.gz", "predictions.json"])
def test_a_file_that_rare_did_not_write_is_never_replaced_in_a_folder(name, scans, tmp_path, call):
    (tmp_path / name).write_bytes(b"precious")
    for more in ((), ("--overwrite",)):
        exit_code, words = call(scans, "-o", tmp_path, *more)
        assert exit_code == 2
        assert "the output holds files that rare did not write" in words
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_folder_of_an_earlier_call_is_replaced_only_with_overwrite(scans, tmp_path, call):
    assert call(scans, "-o", tmp_path)[0] == 0
    (tmp_path / "predictions.json").write_text("{}")
    exit_code, words = call(scans, "-o", tmp_path)
    assert exit_code == 2
    assert "--overwrite replaces it; or choose another -o" in words
    assert "--resume" not in words
    assert call(scans, "-o", tmp_path, "--overwrite")[0] == 0
    assert set(json.loads((tmp_path / "predictions.json").read_text())["cases"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("forced", "entry"),
    [((), [0, 0, 0]), (("--depth", 3), [3, 3, 3]), (("--entry", "0,0,2"), [0, 0, 2])],
)
def test_an_entry_can_be_forced_and_is_recorded(forced, entry, scans, tmp_path, call):
    assert call(scans, "-o", tmp_path, *forced)[0] == 0
    records = json.loads((tmp_path / "predictions.json").read_text())["cases"]
    assert [record["entry"] for record in records.values()] == [entry, entry]


@pytest.mark.parametrize("forced", [("--depth", 1, "--entry", "1,1,1"), ("--entry", "0,0"), ("--entry", "0,0,x"), ("--depth", "0,0,2")])
def test_what_is_no_entry_or_two_is_a_usage_error(forced, scans, tmp_path, call):
    with pytest.raises(SystemExit) as ended:
        call(scans, "-o", tmp_path / "out", *forced)
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_the_library_refuses_a_depth_beside_an_entry_before_it_asks():
    scan = Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4))
    with client.Client("127.0.0.1:1") as opened, pytest.raises(UsageError, match="exclude each other"):
        opened.predict(scan, depth=0, entry=(0, 0, 0))


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [((1, 0, 4, 4), 2.0, "the scan has no voxels"), ((1, 4, 4, 4), 1e300, "the spacing is not finite and positive")],
)
def test_the_library_refuses_what_has_no_voxels_or_no_spacing_before_it_sends_it(shape, spacing, words):
    with client.Client("127.0.0.1:1") as opened, pytest.raises(DataError, match=words):
        opened.predict(Volume(np.zeros(shape, np.float32), np.diag([spacing, spacing, spacing, 1.0])))


@pytest.mark.parametrize("missing", [ImportError("no module"), RuntimeError("The installation does not include http support.")])
def test_a_missing_protocol_names_the_extra(missing, monkeypatch):
    def refuse(name, *_rest, **_more):
        raise missing if name == "tritonclient.http" else AssertionError(name)

    monkeypatch.setattr("builtins.__import__", refuse)
    with pytest.raises(EnvironmentFault) as found:
        client.Client("127.0.0.1:1", "http")
    monkeypatch.undo()
    assert found.value.problem == "the package tritonclient[http] is not installed"
    assert found.value.remedy == 'pip install "rare-unet[triton]"'
