import json

import nibabel as nib
import numpy as np
from html_pages import ReadPage, require_self_contained

from rarecli import Phantom
from rarecli.core.imaging.volume import write_image
from rarecli.core.jobs.shards import Shard
from rarecli.core.prediction.html_report import prediction_page
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import render


def record(entry, seconds, head, warnings=(), doubts=()):
    quality = {"confidence": {"head": 0.912 if doubts else None}, "doubts": list(doubts)}
    facts = {"entry": entry, "reason": f"because {head}", "spacing_mm": [1.0, 1.0, 4.0], "backend": "onnx", "seconds": seconds}
    return facts | {"residual_zoom": [1, 1, 1], "warnings": list(warnings), "volumes_mm3": {"head": head}, "quality": quality}


def test_every_case_is_told_with_its_entry_reason_seconds_and_volumes():
    cases = {
        "<script>x</script>": record([1, 1, 1], 0.1234, 123.4),
        "b": record([0, 0, 2], 1.5, 99.0, ["coarser than any training scan"], ["its head is in 3 parts"]),
    }
    result = {"model": "Phantoms", "num_models": 5, "backend": "onnx", "cases": cases, "failed": {"c": "not a NIfTI file"}}
    result |= {"calibrated": True}
    page = ReadPage(render(prediction_page(result, ReportOptions("rare predict in -m run"), ["a warning"])))
    require_self_contained(page)
    columns, rows = page.tables["Every case, with the volume of each label"]
    first = ["case", "entry", "reason", "spacing (mm)", "seconds", "head (mm³)", "confidence of head"]
    assert columns == [*first, "unlike the training scans", "may be wrong"]
    assert [cell for cell, _ in rows[0]] == ["<script>x</script>", "depth 1", "because 123.4", "1x1x4", "0.12", "123", "", "", ""]
    assert [rows[0][4][1], rows[0][5][1]] == ["0.1234", "123.4"]
    assert [rows[1][1][0], rows[1][6][0], rows[1][7][0]] == ["entry 0,0,2", "0.91", "coarser than any training scan"]
    assert rows[1][8][0] == "its head is in 3 parts"
    assert page.tables["Cases that failed"][1] == [[("c", "c"), ("not a NIfTI file",) * 2]]
    assert "2 of 3 scans are segmented; 1 unlike the training scans." in page.texts["p"]
    assert {"a warning"} <= set(page.texts["li"])
    assert page.texts["h1"] == ["Phantoms, mean of 5 models: predictions"]


def test_a_model_that_is_not_calibrated_shows_no_confidence():
    cases = {"b": record([0, 0, 2], 1.5, 99.0, (), ["its head is in 3 parts"])}
    result = {"model": "Phantoms", "num_models": 1, "backend": "onnx", "cases": cases, "failed": {}, "calibrated": False}
    assert "confidence" not in render(prediction_page(result, ReportOptions("rare predict in -m run")))


def test_a_folder_of_scans_gets_a_report_a_shard_and_a_single_file_do_not(run, tmp_path):
    for number in range(2):
        scan, _ = Phantom(number).acquire(4.0)
        write_image(tmp_path / "in" / f"{number}.nii.gz", scan.data[0], scan)
    with Predictor(run, device="cpu") as predictor:
        for part in (1, 2):
            predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(shard=Shard(part, 2), report=ReportOptions()))
        assert not (tmp_path / "out" / "report.html").exists()
        predict([tmp_path / "in" / "0.nii.gz"], predictor, tmp_path / "one" / "0.nii.gz", PredictOptions(report=ReportOptions()))
        assert [path.name for path in (tmp_path / "one").iterdir()] == ["0.nii.gz"]
        predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(resume=True, report=ReportOptions()))
    page = ReadPage((tmp_path / "out" / "report.html").read_text())
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]
    rows = page.tables["Every case, with the volume of each label"][1]
    assert {row[0][0]: float(row[4][1]) for row in rows} == {name: case["seconds"] for name, case in records.items()}
    voxels = (np.asarray(nib.load(tmp_path / "out" / "1.nii.gz").dataobj) == 1).sum()
    assert next(row[5] for row in rows if row[0][0] == "1") == (f"{voxels * 64:.0f}", repr(float(voxels * 64)))
    assert str(tmp_path) not in page.source
