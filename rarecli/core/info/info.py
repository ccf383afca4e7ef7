"""`rare info`: describe a file, a folder or a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.config.geometry import entry_taken, entry_text
from rarecli.core.data.case_files import is_dicom_folder, scan_files, scans_in
from rarecli.core.data.layouts import open_dataset
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.formats.dicom_series import describe_series
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.scan_files import is_dicom, is_scan
from rarecli.core.imaging.scan_rules import ScanRules
from rarecli.core.imaging.volume import Volume, read_volume, values_if_labels
from rarecli.core.info.datasets import describe_dataset
from rarecli.core.info.models import describe_built_in, describe_bundle, describe_run, verify_model
from rarecli.core.info.scan_picture import draw_scan, require_new_picture
from rarecli.core.jobs.files import read_json
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.words import counted, times

Facts = dict[str, Any]


def info(
    path: Path | None,
    model: Path | None = None,
    *,
    verify: bool = False,
    backend: str = "auto",
    series: str | None = None,
    picture: Path | None = None,
    reporter: Reporter = Silent(),
) -> Facts:
    """Return facts by name about a scan, dataset, prepared dataset, run or bundle; values are text or lists of text.

    A dataset also has `per_case`: a line of text by case. All its voxels are read.
    model: for a scan or a dataset, also report where this model would route it. Without a path, the model itself is described.
    verify: check the files of a bundle, and run its conformance vectors and large images with `backend`.
    series: the UID of a DICOM series; without it, several series are listed. picture: a PNG file in which a scan is drawn.
    Raises DataError for a path that is none of these, ModelError for a broken bundle, UsageError for neither a path nor a model.
    """
    subject = path or model
    if subject is None:
        raise UsageError("there is nothing to describe", expected="a path, or a model with --model", remedy="rare models lists models")
    if picture is not None:
        require_new_picture(picture)
    facts = verify_model(subject, backend, reporter) if verify else _describe_path(subject, model if path else None, series, reporter)
    if picture is not None:
        if not facts["kind"].startswith("scan"):
            raise UsageError("only a scan is drawn", field="--picture", path=subject, found=facts["kind"])
        rules = _rules(model)
        draw_scan(subject, picture, series, None if rules is None else rules.spec.plan)
        facts["picture"] = str(picture)
    return facts


def _describe_path(path: Path, model: Path | None, series: str | None, reporter: Reporter) -> Facts:
    """Describe a path, or a built-in model by its name, as `info` does without `verify`.

    Raises DataError for anything else.
    """
    if not path.exists():
        return describe_built_in(path)
    try:
        return _describe(path, model, series, reporter)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("the folder holds JSON that rare did not write", path=path, found=repr(error)) from error


def _describe(path: Path, model: Path | None, series: str | None, reporter: Reporter) -> Facts:
    if path.is_file():
        if is_scan(path):
            return _scan(path, model) if not is_dicom(path) else _dicom(path, model, series)
        if path.suffix == ".safetensors" and (path.parent / "run.json").is_file():
            return describe_run(path.parent) | {"kind": f"weights of a run, {path.name}"}
        raise DataError("unknown kind of file", path=path, expected="a scan, the weights of a run, or a folder")
    if (path / "prepared.json").is_file():
        return _prepared(path)
    if (path / "run.json").is_file():
        return describe_run(path)
    if (path / "manifest.json").is_file():
        return describe_bundle(path)
    if (path / "summary.json").is_file():
        return _scores(path)
    if not (path / "dataset.json").is_file():
        if scan_files(path):
            return _scans(path)
        if not (path / "images").is_dir() and is_dicom_folder(path):
            return _dicom(path, model, series)
    return describe_dataset(open_dataset(path), _rules(model), reporter)


def _dicom(path: Path, model: Path | None, series: str | None) -> Facts:
    listed = describe_series(path)
    if series is None and len(listed) > 1:
        return {"kind": f"DICOM, {len(listed)} series", "series": listed}
    return _scan(path, model, series) | {"kind": "scan, DICOM"}


def _scan(path: Path, model: Path | None, series: str | None = None) -> Facts:
    volume: Volume = read_volume(path, series=series)
    ras = to_ras(volume)
    facts: Facts = {
        "kind": "scan",
        "shape": f"{times(volume.shape)} voxels, {counted(volume.num_channels, 'channel')}",
        "spacing": f"{times(volume.spacing_mm)} mm",
        "orientation": volume.orientation,
        "field of view": f"{times(np.array(ras.shape) * ras.spacing_mm)} mm (right x anterior x superior)",
        "intensity": f"{volume.data.min():g} to {volume.data.max():g}, mean {volume.data.mean():g}",
    }
    if (values := values_if_labels(volume.data)) is not None:
        facts["values"] = f"{', '.join(f'{value:g}' for value in values)} (labels?)"
    if (rules := _rules(model)) is not None:
        way = rules.route(ras.spacing_mm)
        facts["route"] = f"{entry_text(way.entry)} of {rules.spec.name} ({way.reason})"
    return facts


def _rules(model: Path | None) -> ScanRules | None:
    from rarecli.core.engines.model_files import find_model  # the manifest's classes take long to build

    return None if model is None else find_model(model).rules


def _scans(path: Path) -> Facts:
    cases = scans_in(path)
    facts: Facts = {"kind": "folder of scans", "cases": f"{len(cases)}, {cases[0].name} to {cases[-1].name}"}
    facts["files per case"] = str(max(len(case.images) for case in cases))
    if (path / "predictions.json").is_file():
        content = read_json(path / "predictions.json")
        facts["kind"] = "predictions"
        facts["model"] = f"{content['model']}, {content['backend']}"
        counts = Counter(entry_taken(record) for record in content["cases"].values())
        facts["routes"] = [f"{entry_text(entry)}: {counted(counts[entry], 'case')}" for entry in sorted(counts)]
    return facts


def _scores(path: Path) -> Facts:
    content = read_json(path / "summary.json")
    facts: Facts = {"kind": "scores", "cases": str(len({item["case"] for item in content["metric_per_case"]}))}
    facts["Dice"] = f"{content['foreground_mean']['dice']:.4f}, mean over classes, cases and resolutions"
    if "per_spacing" in content:
        facts["by spacing"] = [f"{spacing} mm: {values['dice']:.4f}" for spacing, values in content["per_spacing"].items()]
    else:
        facts["by depth"] = [f"depth {depth}: {values['dice']:.4f}" for depth, values in content["per_depth"].items()] or "not known"
    return facts


def _prepared(path: Path) -> Facts:
    from rarecli.core.data.prepared import open_prepared

    index = open_prepared(path).index
    plan = index.plan
    facts: Facts = {
        "kind": "prepared dataset",
        "dataset": f"{plan.dataset}, {counted(len(index.cases), 'case')}",
        "trained spacing": f"{times(plan.spacing_mm)} mm",
        "patch": f"{times(plan.patch_size)} voxels" + (", every case of this shape" if plan.fixed_shape else ""),
        "levels": str(plan.num_levels),
        "normalisation": ", ".join(rule.kind for rule in getattr(plan.normalisation, "rules", [plan.normalisation])),
        "routing plan": [f"depth {depth}: {counted(count, 'case')}" for depth, count in enumerate(index.routing_plan)],
    }
    if index.failed:
        facts["failed"] = [f"{name}: {why}" for name, why in index.failed.items()]
    return facts
