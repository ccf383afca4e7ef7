"""What files, permissions and limits do to a whole command: an exit code of the tree of errors, never "a bug in rare"."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rarecli.core.data.phantoms import Phantom
from rarecli.core.errors import EnvironmentFault, meaning
from rarecli.core.imaging.volume import write_image

# root may read every file; without these two capabilities it obeys the modes
WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
SMALL = ["--epochs", "1", "--fold", "all", "--num-filters", "2", "--device", "cpu"]


@pytest.fixture
def scan(tmp_path):
    image, _ = Phantom(0).acquire(8.0)
    write_image(tmp_path / "scan.nii.gz", image.data[0], image)
    return tmp_path / "scan.nii.gz"


def rare(*arguments, before=(), stdout=subprocess.DEVNULL):
    command = [*before, sys.executable, "-m", "rarecli", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_broken_command_lines_end_with_an_exit_code_of_the_tree():
    command = [sys.executable, Path(__file__).with_name("fuzz_commands.py"), "--num-calls", "100", "--seed", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "seed 0: 100 calls" in result.stdout


@pytest.mark.parametrize("arguments", [["info", "RUN"], ["info", "RUN", "--json"], ["train", "-h"]])
def test_a_full_standard_output_is_an_environment_fault(run, arguments):
    with Path("/dev/full").open("w") as full:
        result = rare(*[run if part == "RUN" else part for part in arguments], stdout=full)
    assert result.returncode == 5, result.stderr
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["train", "-h"]])
def test_a_pipe_that_nobody_reads_ends_the_command_silently(arguments):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        result = rare(*arguments, stdout=pipe)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


def test_a_working_directory_that_is_gone_is_named(run, scan, tmp_path):
    (tmp_path / "gone").mkdir()
    script = 'rmdir "$PWD" && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-P", "-m", "rarecli", "predict", scan, "-m", run, "-o", tmp_path / "labels.nii"]
    result = subprocess.run(command, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert result.returncode == 5, result.stderr
    assert "the working directory no longer exists" in result.stderr


@pytest.mark.parametrize(
    "name", ["run/weights.safetensors", "run/run.json", "bundle/entry_3_3_3.onnx", "bundle/weights.safetensors", "bundle"]
)
def test_a_model_that_may_not_be_read_says_so(run, bundle, scan, tmp_path, name):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / name).chmod(0)
    model = tmp_path / name.partition("/")[0]
    result = rare("predict", scan, "-m", model, "-o", tmp_path / "labels.nii.gz", before=WITHOUT_PRIVILEGE)
    (tmp_path / name).chmod(0o755)
    assert result.returncode in (4, 5), result.stderr
    assert "Permission denied" in result.stderr


@pytest.mark.parametrize("name", ["imagesTr", "labelsTr", "imagesTr/phantom_000.nii.gz", "dataset.json"])
def test_a_dataset_that_may_not_be_read_says_so(phantom_dataset, tmp_path, name):
    shutil.copytree(phantom_dataset, tmp_path / "data")
    (tmp_path / "data" / name).chmod(0)
    result = rare("preprocess", tmp_path / "data", "-o", tmp_path / "prepared", "--jobs", "1", before=WITHOUT_PRIVILEGE)
    (tmp_path / "data" / name).chmod(0o755)
    assert result.returncode in (3, 5, 6), result.stderr
    assert "Permission denied" in result.stderr


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("content", [b"", b"\x08\x07\x12", b"plain text", bytes(1000)], ids=["empty", "cut", "text", "zeros"])
def test_an_engine_that_is_no_graph_is_a_model_error(bundle, scan, tmp_path, backend, content):
    from fuzz_commands import put_into_bundle

    copy = shutil.copytree(bundle, tmp_path / "bundle")
    put_into_bundle(copy / "entry_3_3_3.onnx", content)
    result = rare("predict", scan, "-m", copy, "-o", tmp_path / "labels.nii.gz", "--backend", backend)
    assert result.returncode == 4, result.stderr
    assert "entry_3_3_3.onnx" in result.stderr


@pytest.mark.parametrize("setting", ["num_filters=1000000000", "batch_size=1000000000", "num_workers=1000000000", "num_levels=1000"])
def test_sizes_beyond_reason_are_usage_errors(prepared, tmp_path, setting):
    result = rare("train", prepared, "-o", tmp_path / "run", *SMALL[:4], "--set", setting)
    assert result.returncode == 2, result.stderr
    assert setting.partition("=")[0] in result.stderr


def test_a_limit_on_file_sizes_asks_for_no_space(phantom_dataset, tmp_path):
    limit = ["sh", "-c", 'ulimit -f 1; trap "" XFSZ; exec "$@"', "sh"]
    result = rare("preprocess", phantom_dataset, "-o", tmp_path / "prepared", "--jobs", "1", before=limit)
    assert result.returncode == 5, result.stderr
    assert "File too large" in result.stderr
    assert "free some space" not in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes. Error code 12"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_short_memory_is_no_bug(error):
    assert isinstance(meaning(error), EnvironmentFault)
    assert "memory" in meaning(error).problem


def test_what_nobody_thought_of_is_a_bug():
    assert meaning(ZeroDivisionError("by 0")).exit_code == 1
    assert meaning(RuntimeError("shapes do not match")).exit_code == 1


@pytest.mark.parametrize("encoding", [{}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_folder_whose_name_is_not_utf_8_serves_every_backend(run, bundle, scan, tmp_path, monkeypatch, encoding):
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    shutil.copytree(run, folder / "run")
    shutil.copytree(bundle, folder / "bundle")
    shutil.copy(scan, folder / scan.name)
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)
    labels = []
    for model, backend in (("run", "torch"), ("bundle", "torch"), ("bundle", "onnx"), ("bundle", "openvino")):
        output = folder / f"{model}_{backend}.nii"
        result = rare("predict", folder / scan.name, "-m", folder / model, "-o", output, "--backend", backend)
        assert result.returncode == 0, result.stderr
        labels.append(output.read_bytes())
    assert len(set(labels)) == 1


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    """Spinning threads take the cores of other processes. The variable must be set before torch loads OpenMP."""
    script = """
import os, sys
from rarecli import cli
sys.argv = ["rare", "--version"]
try:
    cli.main()
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", script], env=inherited | given, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == f"{expected} False"
