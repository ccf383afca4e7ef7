import pytest

from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import ModelError


@pytest.mark.parametrize(
    ("folder", "file", "found", "remedy"),
    [
        ("run", "run.json", "a file", "give the folder: run"),
        ("bundle", "entry_0_0_0.onnx", "a file", "give the folder: bundle"),
        ("other", "scan.nii", "a file", None),
        ("other", "", "neither run.json nor manifest.json", None),
    ],
)
def test_a_file_inside_a_model_is_not_the_model(tmp_path, monkeypatch, folder, file, found, remedy):
    monkeypatch.chdir(tmp_path)
    for name in ("run/run.json", "bundle/manifest.json", "bundle/entry_0_0_0.onnx", "other/scan.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="not a model") as error:
        find_model(tmp_path.joinpath(folder, file).relative_to(tmp_path))
    assert (error.value.found, error.value.remedy) == (found, remedy)


def test_the_nearest_built_in_model_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="not a model") as error:
        find_model(tmp_path.joinpath("hipocampus").relative_to(tmp_path))
    assert (error.value.found, error.value.remedy) == ("no such file or folder", "did you mean hippocampus?")
