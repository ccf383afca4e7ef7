"""The Python functions: from a dataset to scores, each result passed to the next function, and shown by a notebook."""

import dataclasses
import inspect
import json
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

import rarecli
from rarecli.cli import app
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.engines.export import ExportOptions, TensorRtOptions
from rarecli.core.engines.segment_page import PageOptions
from rarecli.core.serving.repository import TritonOptions

COMMANDS = {"benchmark", "evaluate", "export", "info", "models", "predict", "preprocess", "score", "train"}
TINY = {"num_filters": 2, "num_depths": 2, "num_levels": 2, "epochs": 1, "num_folds": 2, "validate_every": 1}


class Fragment(HTMLParser):
    """Cells and pictures of a fragment of HTML; every tag must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.pictures = [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures += 1
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += text


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "Phantoms"
    write_phantoms(root, range(4), 8.0)
    return root


@pytest.mark.filterwarnings("ignore:steps wait for data")  # on a busy machine
def test_the_whole_chain(dataset, tmp_path):
    prepared = rarecli.preprocess(dataset, tmp_path / "prepared", num_levels=2)
    assert (prepared.dataset, prepared.num_cases, prepared.spacing_mm) == ("Phantoms", 4, (8.0, 8.0, 8.0))
    assert prepared.num_cases_at == (4, 0)
    run = rarecli.train(prepared, str(tmp_path / "run"), settings=TINY, device="cpu")
    assert run.best_epoch == 1
    assert run.last["epoch"] == 1
    scores = rarecli.evaluate(dataset, run, tmp_path / "scores", depths=[0], surface=False, upsampled=False, all_cases=True)
    assert scores.dice == json.loads((tmp_path / "scores" / "summary.json").read_text())["foreground_mean"]["dice"]
    with rarecli.Predictor(run) as predictor:
        predictions = rarecli.predict(dataset / "imagesTr", predictor, tmp_path / "labels")
        one = rarecli.predict(dataset / "imagesTr" / "phantom_000.nii.gz", predictor, tmp_path / "one.nii.gz")
    assert sorted(predictions.cases) == [f"phantom_00{index}" for index in range(4)]
    assert one.cases["phantom_000"].volumes_mm3 == predictions.cases["phantom_000"].volumes_mm3
    assert one.cases["phantom_000"].entry == (0, 0, 0)
    files = rarecli.score(dataset / "labelsTr", predictions, tmp_path / "scores_of_files", surface=False)
    assert files.dice == pytest.approx(scores.dice, abs=1e-6)
    bundle = rarecli.export(run, tmp_path / "bundle", check=False)
    assert bundle.entries == ((0, 0, 0), (1, 1, 1))
    for result, cell in ((prepared, "depth"), (run, "epoch"), (scores, "head"), (predictions, "phantom_003"), (bundle, "depth 1")):
        fragment = Fragment(result._repr_html_())
        assert cell in fragment.cells
        assert Path(result) == result.path
    assert Fragment(run._repr_html_()).pictures == Fragment(scores._repr_html_()).pictures == 1
    assert rarecli.info(bundle).kind == "bundle"
    assert "depth 1" in rarecli.info(bundle)["engines"][1]


PLACES = {
    "depths": "entries",
    "no_conv_transpose": "conv_transpose",
    "shape_min": "tensorrt.shape_min",
    "shape_opt": "tensorrt.shape_opt",
    "shape_max": "tensorrt.shape_max",
    "timing_cache": "tensorrt.timing_cache",
    "triton_backend": "serving.backend",
    "model_name": "serving.name",
    "max_batch": "serving.max_batch",
    "instances": "serving.num_instances",
    "routers": "serving.num_routers",
    "max_delay_us": "serving.max_delay_us",
    "json": "progress",  # a result is returned; what is printed is a choice
}
"""Where `rarecli.export` takes the parameters of `rare export` that it names otherwise."""


def test_export_takes_what_the_command_takes_and_nothing_less():
    def fields(kind, inside=""):
        return {inside + field.name for field in dataclasses.fields(kind)}

    taken = set(inspect.signature(rarecli.export).parameters) | fields(ExportOptions)
    taken |= fields(TensorRtOptions, "tensorrt.") | fields(TritonOptions, "serving.")
    asked = {parameter.name for parameter in typer.main.get_command(app).commands["export"].params}
    assert {PLACES.get(name, name) for name in asked} <= taken
    assert set(PLACES) <= asked
    assert fields(PageOptions) <= fields(ExportOptions)  # a page takes fewer
    # and back: what the shell does not offer is for scripts
    assert taken - {PLACES.get(name, name) for name in asked} == {"options", "tensorrt", "serving", "check", "num_jobs"}


def test_an_export_measures_precisions_and_renders_for_a_server(dataset, bundle, tmp_path):
    models = rarecli.export(bundle, triton=tmp_path / "repository", serving={"backend": "python", "name": "scan"})
    assert models.path == bundle
    assert models.triton_models[0] == "scan"
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == sorted(models.triton_models)
    only = {"entries": [(3, 3, 3)], "check": False, "conv_transpose": False, "tensorrt": {"shape_max": (64, 64, 64)}}
    measured = rarecli.export(bundle, tmp_path / "measured", calibrate=dataset, cases=["phantom_001"], **only)
    assert measured.manifest["precisions"]["num_cases"] == 1
    assert measured.manifest["conv_transpose"] is False
    assert json.loads((tmp_path / "measured" / "manifest.json").read_text()) == measured.manifest
    with pytest.raises(rarecli.RareError, match="no such option"):
        rarecli.export(bundle, tmp_path / "x", tensorrt={"shape": (64, 64, 64)})


def test_an_export_writes_a_page_alone(bundle, tmp_path):
    page = rarecli.export(bundle, tmp_path / "segment.html", formats=["html"])
    assert page.path.read_text().startswith("<!DOCTYPE html>")
    assert page.manifest == json.loads((bundle / "manifest.json").read_text())
    with pytest.raises(rarecli.RareError, match="written alone"):
        rarecli.export(bundle, tmp_path / "other.html", formats=["html"], triton=tmp_path / "repository")
    with pytest.raises(rarecli.RareError, match="nothing to write"):
        rarecli.export(bundle)
    with pytest.raises(rarecli.RareError, match="no such option"):
        rarecli.export(bundle, tmp_path / "other.html", formats=["html"], self_contained=True)


def test_text_of_a_result_is_text_in_the_page():
    from rarecli.api.results import Description, Predictions

    shown = Predictions(Path("a&b"), "<m>", "onnx", {}, {"<script>": "1 < 2"})._repr_html_()
    assert "<script>" not in shown
    assert Fragment(shown).cells[-1] == "1 < 2"
    assert "<pre>a\n  b</pre>" in Description({"kind": "k", "routing": ["a", "  b"]})._repr_html_()


def test_an_unknown_option_is_refused_with_the_nearest(dataset, tmp_path):
    with pytest.raises(rarecli.RareError, match="did you mean overwrite"):
        rarecli.predict(dataset, "hippocampus", tmp_path / "x", overwrit=True)
    with pytest.raises(rarecli.RareError, match="one model"):
        rarecli.export(["a", "b"], tmp_path / "x")


def test_warnings_are_python_s_and_failures_hold_the_result(dataset, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_bytes((dataset / "imagesTr" / "phantom_000.nii.gz").read_bytes())
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"broken")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(rarecli.SomeCasesFailed) as failed:
            rarecli.predict(tmp_path / "in", "hippocampus", tmp_path / "out")
    assert list(failed.value.result["cases"]) == ["a"]
    assert any(str(warning.message).startswith("b: ") for warning in caught)


def test_what_there_is():
    assert set(dir(rarecli)) >= COMMANDS | {"Predictor", "Volume", "Phantom", "dice", "RareError", "__version__"}
    for name in rarecli.__all__:
        assert getattr(rarecli, name).__doc__, name
    assert (Path(rarecli.__file__).parent / "py.typed").is_file()
    assert rarecli.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute"):
        rarecli.nothing  # noqa: B018


def test_the_import_loads_little():
    """Modules are counted, not time: beside numpy's, `import rarecli` loads nothing."""
    probe = "import sys, numpy; before = set(sys.modules); import rarecli; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["rarecli"]


def test_the_functions_import_nothing_heavy():
    probe = "import sys, rarecli; rarecli.train, rarecli.predict; print(*{'torch', 'monai', 'onnxruntime', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "\n"
