"""axe-core finds no serious and no critical fault in the pages, light and dark."""

import benchmark_records
import pytest

from rarecli import Phantom
from rarecli.core.benchmarking.html_report import benchmark_page
from rarecli.core.benchmarking.suites import load_suite, random_spec
from rarecli.core.config.run_folder import RunInfo
from rarecli.core.config.train_config import load_train_config
from rarecli.core.imaging.volume import write_image
from rarecli.core.prediction.html_report import prediction_page
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render
from rarecli.core.training.progress_report import training_page

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("scheme", ["light", "dark"])]


def test_the_report_of_an_evaluation(evaluated, open_page, scheme):
    opened = open_page(evaluated / "report.html", bypass_csp=True, color_scheme=scheme)
    opened.page.wait_for_selector("#viewer[data-ready='0,0']")
    opened.require_accessible()


def prediction():
    facts = {"entry": [1, 1, 1], "reason": "its spacing", "spacing_mm": [2.0] * 3, "backend": "onnx", "seconds": 1.0}
    quality = {"confidence": {"head": 0.7}, "doubts": ["its head is in 3 parts"]}
    case = facts | {"residual_zoom": [1] * 3, "warnings": ["coarser"], "volumes_mm3": {"head": 9.0}, "quality": quality}
    result = {"model": "Phantoms", "num_models": 1, "backend": "onnx", "cases": {"a": case}, "failed": {"b": "not a NIfTI file"}}
    result |= {"calibrated": True}
    return prediction_page(result, ReportOptions("rare predict in -m run"), ["a warning"])


def training():
    spec = random_spec(load_suite("smoke"))
    info = RunInfo(spec=spec, config=load_train_config(overrides={"epochs": 9}), split={"train": ["a"], "val": ["b"]}, versions={})
    log = [
        {"epoch": epoch, "lr": 1e-3, "seconds": 1.0, "waited_for_data": 0.1, "computed": 0.8, "loss": 1 / epoch, "dice_mean": 0.4}
        for epoch in (1, 2, 3)
    ]
    return training_page(info, log, ReportOptions("rare train p -o run"))


def benchmark():
    return benchmark_page(benchmark_records.result(), ReportOptions("rare benchmark bundle -o timing"), ["a warning"])


@pytest.mark.parametrize("page", [prediction, training, benchmark])
def test_other_reports(open_page, tmp_path, page, scheme):
    path = tmp_path / "report.html"
    path.write_text(render(page()), encoding="utf-8")
    open_page(path, bypass_csp=True, color_scheme=scheme).require_accessible()


def test_the_page_that_segments_before_and_after_a_scan_and_after_a_fault(page_file, open_page, tmp_path, scheme):
    opened = open_page(page_file, bypass_csp=True, color_scheme=scheme)
    opened.require_accessible()
    (tmp_path / "bad.nii").write_bytes(b"a text")
    opened.page.set_input_files("#files", tmp_path / "bad.nii")
    opened.page.wait_for_selector("#error:not([hidden])")
    opened.require_accessible()
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(4)
    write_image(tmp_path / "good.nii.gz", scan.data[0], scan)
    opened.page.set_input_files("#files", tmp_path / "good.nii.gz")
    opened.page.wait_for_selector("#result:not([hidden])")
    opened.require_accessible()
