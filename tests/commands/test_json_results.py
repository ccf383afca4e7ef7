"""What every command prints with --json fits its schema, and its last line on stderr says where the result is and what follows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError

from rarecli.commands import schemas as written
from rarecli.commands.schemas import schemas
from rarecli.core.benchmarking import machine

COMMANDS = ["preprocess", "train", "predict", "evaluate", "calibrate", "score", "export", "benchmark", "info", "models", "convert", "demo"]
TORCH_ONLY = ["--backends", "torch", "--depths", "1", "--no-upsampled", "--no-cold-start"]


def fitting(name, text):
    content = json.loads(text)
    Draft202012Validator(schemas()[name]).validate(content)
    return content


def test_every_command_has_a_schema_that_is_up_to_date(request):
    folder = request.config.rootpath / "docs" / "schemas"
    assert sorted(schemas()) == sorted([*COMMANDS, "error"])
    for name, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8")) == schema, "run make schema"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.schema.json" for name in schemas())


@pytest.fixture
def places(dataset, small_prepared, small_run, small_bundle, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cores = dict.fromkeys(("bf16", "peak_fp32", "peak_bf16", "peak_int8"))
    monkeypatch.setattr(machine, "measure_peaks", lambda *_: {"fp32": 1e9, "copy": 1e9} | cores)  # it would take half a minute
    (tmp_path / "cases" / "images").mkdir(parents=True)
    (tmp_path / "cases" / "masks").mkdir()
    torch.save(torch.rand(1, 8, 8, 8), tmp_path / "cases" / "images" / "a.nii.pt")
    torch.save(torch.ones(1, 8, 8, 8), tmp_path / "cases" / "masks" / "a.nii.pt")
    return {
        "DATASET": dataset,
        "IMAGES": dataset / "imagesTr",
        "LABELS": dataset / "labelsTr",
        "PREPARED": small_prepared,
        "RUN": small_run,
        "BUNDLE": small_bundle,
        "SCAN": scan,
    }


EVALUATE = ["evaluate", "DATASET", "-m", "RUN", "--no-surface", "--no-upsampled", "--all-cases"]
CALLS = [
    (["preprocess", "DATASET", "-o", "p", "--jobs", "1"], "Written to p; next: rare train p -o run"),
    (["preprocess", "DATASET", "-o", "p", "--jobs", "1", "--shard", "1/2"], "--resume instead of --shard writes p"),
    (
        ["train", "PREPARED", "-o", "r", "--fold", "all", "--num-depths", "2", "--dry-run"],
        "Next: rare train PREPARED -o r --fold all --num-depths 2",
    ),
    (
        ["train", "PREPARED", "-o", "r", "--fold", "all", "--num-depths", "2", "--set", "gateways=false", "--dry-run"],
        "Next: rare train PREPARED -o r --fold all --num-depths 2 --set gateways=false",
    ),
    (["predict", "SCAN", "-m", "RUN", "-o", "l.nii.gz"], "Written to l.nii.gz; next: rare info l.nii.gz"),
    (["predict", "IMAGES", "-m", "BUNDLE", "-o", "my labels"], "Written to my labels; next: open 'my labels/report.html'"),
    ([*EVALUATE, "-o", "e", "--depths", "1"], "Written to e; next: rare export RUN -o bundle"),
    ([*EVALUATE, "-o", "e", "--spacings", "8,8x8x16"], "Written to e; next: rare export RUN -o bundle"),
    ([*EVALUATE, "-o", "e", "--depths", "1", "--shard", "1/4"], "--resume instead of --shard writes the results"),
    (["score", "LABELS", "LABELS", "-o", "s"], "Written to s; next: rare score LABELS OTHER -o other_scores --against s"),
    (["export", "RUN", "-o", "b", "--depths", "1"], "Written to b; next: rare benchmark b -o timing"),
    (["export", "BUNDLE", "--triton", "t"], "Written to t; next: tritonserver --model-repository t"),
    (["benchmark", "RUN", "-o", "t", *TORCH_ONLY], "next: rare benchmark RUN -o other_timing --against t/results.json"),
    (["info", "SCAN", "-m", "RUN"], "Next: rare predict SCAN -m RUN -o labels.nii.gz"),
    (["info", "DATASET"], "Next: rare preprocess DATASET -o prepared"),
    (["info", "-m", "hippocampus"], "Next: rare predict SCAN.nii.gz -m hippocampus -o labels.nii.gz"),
    (["models"], "Next: rare info -m hippocampus"),
    (["info", "PREPARED"], "Next: rare train PREPARED -o run"),
    (["info", "RUN"], "Next: rare export RUN -o bundle"),
    (["info", "BUNDLE"], "Next: rare predict SCAN.nii.gz -m BUNDLE -o labels.nii.gz"),
    (["convert", "cases", "-o", "d"], "Written to d; next: rare preprocess d -o prepared"),
]


@pytest.mark.parametrize(("arguments", "ending"), CALLS, ids=[" ".join(arguments) for arguments, _ in CALLS])
def test_the_output_fits_and_the_last_line_says_what_follows(rare, places, arguments, ending):
    ended = rare(*(places.get(argument, argument) for argument in arguments), "--json")
    assert ended.code == 0, ended.stderr
    fitting(arguments[0], ended.stdout)
    for name, path in places.items():
        if name != "SCAN":  # a placeholder of the ending, too
            ending = ending.replace(name, str(path))
    assert ending.replace("predict SCAN ", f"predict {places['SCAN']} ") in ended.last_line


def test_a_training_fits_and_says_how_long_it_will_take(rare, places):
    options = ["--num-depths", "2", "--num-filters", "2", "--set", "num_folds=2", "--set", "validate_every=1", "--device", "cpu"]
    ended = rare("train", places["PREPARED"], "-o", "r", "--epochs", "2", *options, "--json")
    record = fitting("train", ended.stdout)
    epochs = [line for line in ended.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert epochs[0].endswith(" left")
    assert f"best {record['best']:.4f} in epoch {record['best_epoch']}" in epochs[1]
    assert ended.last_line == "Written to r; next: rare evaluate DATASET -m r -o scores"


def test_a_calibration_fits_and_its_doubts_are_told(rare, places):
    shutil.copytree(places["RUN"], "run")
    ended = rare("calibrate", places["DATASET"], "-m", "run", "--json")
    known = fitting("calibrate", ended.stdout)
    assert known == json.loads(Path("run/calibration.json").read_text())
    assert ended.last_line == "Written to run; next: rare export run -o bundle"
    assert "the output exists" in rare("calibrate", places["DATASET"], "-m", "run").stderr
    known["least_confidence"] = 1.0
    Path("run/calibration.json").write_text(json.dumps(known))
    ended = rare("predict", places["IMAGES"], "-m", "run", "-o", "labels", "--qc", "--json")
    fitting("predict", ended.stdout)
    assert "phantom_000 may be segmented wrongly: its confidence is" in ended.stderr


def test_results_with_a_comparison_fit(rare, places):
    assert rare("score", places["LABELS"], places["LABELS"], "-o", "s", "--no-surface").code == 0
    ended = rare("score", places["LABELS"], places["LABELS"], "-o", "again", "--no-surface", "--against", "s", "--json")
    assert fitting("score", ended.stdout)["comparison"]["mean"]["difference"] == 0
    assert json.loads(ended.stdout)["label_names"] == {"1": "head", "2": "tail"}


def test_a_benchmark_that_fails_prints_its_rows_beside_the_error(rare, places):
    ended = rare("benchmark", places["RUN"], "-o", "t", *TORCH_ONLY, "--backends", "abacus", "--json")
    content = fitting("benchmark", ended.stdout)
    assert (ended.code, content["error"]["kind"]) == (6, "some-failed")
    assert [row["status"].split(":")[0] for row in content["rows"]] == ["ok", "failed"]


@pytest.mark.parametrize("name", ["preprocess", "train", "predict", "score", "info", "models"])
def test_quiet_leaves_the_result_alone(rare, places, name):
    arguments = next(arguments for arguments, _ in CALLS if arguments[0] == name)
    ended = rare("--quiet", *(places.get(argument, argument) for argument in arguments))
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout or name == "predict"


def test_quiet_leaves_warnings_and_errors(rare, places, tmp_path):
    shutil.copytree(places["LABELS"], tmp_path / "fewer")
    (tmp_path / "fewer" / "phantom_000.nii.gz").unlink()
    ended = rare("-q", "score", places["LABELS"], "fewer", "-o", "s", "--no-surface", "--json")
    assert ended.stderr == "Warning: not scored: 1 reference has no prediction: phantom_000\n"
    assert rare("-q", "info", "none").stderr.startswith("Error: no such file or folder\n")


def test_verbose_tells_versions_decisions_and_times(rare, places):
    ended = rare("--verbose", "predict", places["SCAN"], "-m", places["RUN"], "-o", "l.nii.gz")
    lines = ended.stderr.splitlines()
    assert all(line[0] == "[" and line[7:11] == " s] " for line in lines)
    assert "Python 3." in lines[0]
    assert "numpy " in lines[0]
    assert any("phantom_000: entry 0,0,0, not resampled, torch, " in line for line in lines)
    assert "took " in lines[-1]


def test_the_line_of_a_scan_has_the_volumes(rare, places):
    one = rare("predict", places["SCAN"], "-m", places["RUN"], "-o", "l.nii.gz", "--json")
    volumes = fitting("predict", one.stdout)["cases"]["phantom_000"]["volumes_mm3"]
    assert "; head " in one.stderr
    assert f"tail {volumes['tail'] / 1000:.3g} mL\n" in one.stderr
    # beside the scans of a folder they stand, too, since there are only two labels
    assert f"tail {volumes['tail'] / 1000:.3g} mL\n" in rare("predict", places["IMAGES"], "-m", places["RUN"], "-o", "all").stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("demo", {"num_test": 1, "seconds": 1.0, "rows": [], "more": 1}),
        ("demo", {"num_test": "1", "seconds": 1.0, "rows": []}),
        ("predict", {"model": "m", "num_models": 1, "backend": "torch", "cases": {"a": {"entry": [0, 0]}}, "failed": {}}),
        ("info", {"name": "a scan of no kind"}),
        ("score", {"error": {"kind": "data", "message": "no"}}),
        ("convert", {"kind": "bundle"}),
        ("error", {"error": None}),
    ],
)
def test_a_schema_refuses_what_it_does_not_describe(name, content):
    with pytest.raises(ValidationError):
        Draft202012Validator(schemas()[name]).validate(content)


def test_the_kinds_are_those_of_the_tree_of_errors():
    from rarecli.core.errors import RareError

    found, left = set(), [RareError]
    while left:
        kind = left.pop()
        found.add(kind.kind)
        left += kind.__subclasses__()
    assert found | {"interrupted"} == set(written.KINDS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--preset", "hippocampus", "--set", "num_filters=16"],
            "configuration: preset hippocampus, but num_depths 2 (4)",
        ),  # 16 is what it has
        (
            ["--epochs", "7", "--set", "optimiser.lr=1e-3"],
            "configuration: the defaults, but num_depths 2 (4); epochs 7 (100); optimiser.lr 0.001 (0.002)",
        ),
        (["--preset", "smoke", "--fold", "all"], "configuration: preset smoke, but num_depths 2 (4); fold all (0)"),
    ],
)
def test_a_training_says_how_its_configuration_differs(rare, places, options, expected):
    ended = rare("train", places["PREPARED"], "-o", "r", *options, "--num-depths", "2", "--dry-run")
    assert expected in ended.stderr.splitlines()
