"""What the shell completes, and the scripts that make it."""

import json
import os
import subprocess
import sys

import pytest

from rarecli.commands import completion
from rarecli.core.benchmarking.stages import TIMED_BACKENDS
from rarecli.core.benchmarking.suites import suite_names
from rarecli.core.config.geometry import EntrySet
from rarecli.core.config.train_config import preset_names
from rarecli.core.engines.export import FORMATS
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.engines.open_model import BACKENDS, PRECISIONS


def shell(*arguments, **environment):
    command = [sys.executable, "-m", "rarecli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bash", ["complete -o default -F _rare_completion rare", "_RARE_COMPLETE=complete_bash"]),
        ("zsh", ["#compdef rare", "_RARE_COMPLETE=complete_zsh"]),
        ("fish", ["complete --command rare", "_RARE_COMPLETE=complete_fish"]),
    ],
)
def test_the_script_of_a_shell(name, words):
    result = shell("--show-completion", name, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 0, result.stderr
    for word in words:
        assert word in result.stdout


@pytest.mark.parametrize(
    ("name", "file"),
    [("bash", ".bash_completions/rare.sh"), ("zsh", ".zfunc/_rare"), ("fish", ".config/fish/completions/rare.fish")],
)
def test_the_script_is_installed_where_the_shell_reads_it(name, file, tmp_path):
    result = shell("--install-completion", name, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1", HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "_RARE_COMPLETE" in (tmp_path / file).read_text()


def completed(line):
    """Return what bash is offered at the end of a line."""
    words = line.split(" ")
    result = shell(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), _RARE_COMPLETE="complete_bash")
    assert result.stderr == ""
    return result.stdout.split()


def test_the_shell_gets_the_values(small_bundle):
    assert completed("rare ben") == ["benchmark"]
    assert completed("rare train prepared --preset hip") == ["hippocampus", "hippocampus-paper"]
    assert completed(f"rare predict scan.nii.gz -m {small_bundle} --depth ") == ["0", "1"]
    assert completed("rare preprocess d --normalisation percentile-") == ["percentile-nonzero"]


def test_the_values_are_those_that_the_library_knows():
    assert completion.presets() == preset_names()
    assert completion.suites() == suite_names()
    assert completion.built_in_models() == list(built_in_models())
    assert completion.BACKENDS == BACKENDS
    assert completion.PRECISIONS == PRECISIONS
    assert (*FORMATS, "html") == completion.FORMATS
    assert set(completion.ENTRY_SETS) == set(EntrySet.__args__)
    assert {*completion.BACKENDS, *completion.MORE_BACKENDS} == set(TIMED_BACKENDS)


def test_one_value_is_completed_by_its_beginning():
    assert completion.complete_backend("o") == ["onnx", "openvino"]
    assert completion.complete_backend("") == ["auto", "torch", "onnx", "openvino", "tensorrt"]
    assert completion.complete_suite("hip") == ["hippocampus"]
    assert completion.complete_precision("b") == ["bf16"]
    assert completion.complete_preset("xyz") == []


def test_a_list_is_completed_at_its_last_value():
    assert completion.complete_backends("onnx,to") == ["onnx,torch", "onnx,torch-compile", "onnx,torch-cuda-graph"]
    assert completion.complete_format("onnx,t") == ["onnx,tensorrt"]


def test_models_are_built_in_ones_and_those_in_the_working_directory(small_run, small_bundle, tmp_path, monkeypatch):
    (tmp_path / "hip-run").symlink_to(small_run)
    (tmp_path / "mine").symlink_to(small_bundle)
    (tmp_path / "no-model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completion.complete_model("h") == ["hippocampus", "hippocampus-paper", "hip-run"]
    assert completion.complete_model("m") == ["mine"]
    assert completion.complete_model("n") == []


class Context:
    def __init__(self, model):
        self.params = {"model": model}


def test_depths_and_entries_are_those_of_the_model(small_run, small_bundle, tmp_path):
    for model in (small_run, small_bundle, str(small_run), f"{small_run},other", small_run / "weights.safetensors"):
        assert completion.complete_depth(Context(model), "") == ["0", "1"]
    assert completion.complete_depths(Context(small_run), "0,") == ["0,1"]
    assert completion.complete_entry(Context(small_run), "1") == ["1,1,1"]
    assert completion.complete_entries(Context(small_run), "") == ["isotropic", "thick", "all", "0,0,0", "1,1,1"]
    assert completion.complete_depth(Context("hippocampus"), "") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", json.dumps({"spec": {"network": {"num_depths": "two"}}})])
def test_a_model_that_cannot_be_read_completes_nothing(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert completion.complete_depth(Context(tmp_path), "") == []
    assert completion.complete_depth(Context(None), "") == []
