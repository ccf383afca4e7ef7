"""What untrusted files and scans of patients must never cause."""

import ast
import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import rarecli
from rarecli.cli import app
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.prepared import open_prepared
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import RareError
from rarecli.core.evaluation.case_selection import read_case_names
from rarecli.core.evaluation.score import ScoreOptions, score

ROOT = Path(rarecli.__file__).parent


def test_no_code_is_run_from_files():
    """No pickle, no eval, no shell, no class names from files, nothing fetched: in the source, name by name."""
    forbidden_modules = {"pickle", "marshal", "shelve", "dill", "joblib", "requests", "urllib", "http", "socket", "ftplib"}
    forbidden_calls = {"eval", "exec", "compile", "__import__", "load_module", "unsafe_load", "full_load", "urlopen"}
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [where for name in node.names if name.name.split(".")[0] in forbidden_modules]
            elif isinstance(node, ast.ImportFrom):
                only_an_error = (node.module, [name.name for name in node.names]) == ("pickle", ["UnpicklingError"])
                found += [where] * ((node.module or "").split(".")[0] in forbidden_modules and not only_an_error)
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                arguments = {item.arg: ast.unparse(item.value) for item in node.keywords}
                # a method named eval or compile (of a network) is another thing than the function
                risky = name in forbidden_calls or name.rpartition(".")[2] in forbidden_calls - {"eval", "exec", "compile"}
                risky |= name in ("np.load", "numpy.load") and arguments.get("allow_pickle") != "False"
                risky |= name in ("os.system", "os.popen")
                risky |= name == "torch.load" and arguments.get("weights_only") != "True"
                risky |= name == "yaml.load" or arguments.get("shell") == "True"
                found += [where] * risky
    assert found == []


@pytest.mark.parametrize("depth", [60, 200, 990, 5000, 200_000])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("dataset.json", lambda path: open_dataset(path.parent)),
        ("manifest.json", lambda path: find_model(path.parent)),
        ("run.json", lambda path: find_model(path.parent)),
        ("prepared.json", lambda path: open_prepared(path.parent)),
        ("predictions.json", lambda path: score(path.parent, path.parent, path.parent / "out", ScoreOptions(surface=False))),
        ("cases.json", read_case_names),
    ],
)
def test_json_that_is_nested_deeply_is_refused(tmp_path, name, read, depth):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        (tmp_path / name).write_text(text)
        with pytest.raises(RareError) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)
        assert len(str(caught.value)) < 5000


WITHOUT_NETWORK = """
import sys
from rarecli.cli import main
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        print("NETWORK", event, arguments, file=sys.stderr, flush=True)
        raise ConnectionError(event)
sys.addaudithook(watch)
for command in sys.argv[1].split(";"):
    sys.argv = ["rare", *command.split()]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, command
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except ConnectionError:
    print("the hook works")
"""


def test_nothing_is_fetched_at_run_time(run, bundle, tmp_path):
    """Predict, evaluate and export, with a hook in the interpreter that refuses every connection."""
    write_phantoms(tmp_path / "data", range(2), 8.0)
    commands = [
        f"predict data/imagesTr -m {bundle} -o a",
        f"predict data/imagesTr -m {bundle} -o b --backend onnx",
        f"evaluate data -m {run} -o c --depths 0 --device cpu",
        f"export {run} -o d --depths 3",
        "predict data/imagesTr/phantom_000.nii.gz -m hippocampus -o e.nii.gz",
    ]
    command = [sys.executable, "-c", WITHOUT_NETWORK, ";".join(commands)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("NETWORK") == 1  # the test's own
    assert "the hook works" in result.stdout


CANARY = b"DOE^JANE19700101"


def plant(path):
    """Write the canary into every free text field of a scan's header, and into an extension."""
    image = nib.load(path)
    for field, size in (("descrip", 80), ("aux_file", 24), ("db_name", 18), ("intent_name", 16), ("data_type", 10)):
        image.header[field] = CANARY[:size]
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY * 3))
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), path)


def leaks(folder):
    """Return the files below `folder`, unpacked, that contain the canary or its beginning."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            if CANARY[:10] in content:
                found.append(path)
    return found


def test_no_path_and_no_header_text_of_a_patient_is_in_any_result(tmp_path):
    """The full chain on scans with a patient's name in all texts and in the folder, one of them broken."""
    source, results = tmp_path / CANARY.decode() / "data", tmp_path / "results"
    write_phantoms(source, range(5), extent_mm=(16.0, 16.0, 16.0))
    for path in source.rglob("*.nii.gz"):
        plant(path)
    assert len(leaks(tmp_path)) == 10
    broken = source / "imagesTr" / "phantom_004.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])
    small = ["num_filters=2", "num_depths=2", "epochs=1", "num_folds=2"]
    settings = [part for item in small for part in ("--set", item)]
    commands = [
        (6, ["preprocess", source, "-o", results / "prepared", "--num-levels", "2", "--jobs", "1"]),
        (0, ["train", results / "prepared", "-o", results / "run", "--device", "cpu", *settings]),
        (0, ["export", results / "run", "-o", results / "bundle"]),
        (6, ["predict", source / "imagesTr", "-m", results / "bundle", "-o", results / "predicted", "--probabilities", "--json"]),
        (6, ["evaluate", source, "-m", results / "bundle", "-o", results / "scores", "--no-surface", "--json"]),
        (0, ["score", source / "labelsTr", results / "predicted", "-o", results / "scored", "--no-surface", "--json"]),
    ]
    for code, command in commands:
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert getattr(result.exception, "exit_code", result.exit_code) == code, result.output
        assert CANARY.decode() not in result.stdout
    assert len(list(results.rglob("*"))) > 40
    assert leaks(results) == []
    assert "phantom_004" in (results / "predicted" / "predictions.json").read_text()
    shutil.copy(source / "imagesTr" / "phantom_000.nii.gz", results / "known.nii.gz")
    assert leaks(results) == [results / "known.nii.gz"]  # the search itself finds what is there
