"""`rare info`: describe a file or folder."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarecli.core.config.geometry import entry_taken, entry_text, isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import LOG, load_run_info
from rarecli.core.data.case_files import is_dicom_folder, scan_files, scans_in
from rarecli.core.data.layouts import open_dataset
from rarecli.core.errors import DataError, ModelError, RareError
from rarecli.core.imaging.formats.dicom_series import describe_series
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.scan_files import is_dicom, is_scan
from rarecli.core.imaging.volume import Volume, read_volume
from rarecli.core.jobs.files import read_json
from rarecli.core.jobs.safe_text import json_lines
from rarecli.core.jobs.words import counted

if TYPE_CHECKING:
    from rarecli.core.engines.manifest import Parity

Facts = dict[str, Any]


def info(path: Path, model: Path | None = None, *, verify: bool = False, backend: str = "auto", series: str | None = None) -> Facts:
    """Return facts by name about a scan, dataset, prepared dataset, run or bundle; values are text or lists of text.

    model: for a scan, also report where this model would route it. verify: check the files of a bundle, and run its conformance vectors
    and large images with `backend`. series: the UID of a DICOM series; without it, several series are listed.
    Raises DataError for a path that is none of these, ModelError for a broken bundle.
    """
    return _verify(path, backend) if verify else _describe_path(path, model, series)


def _verify(bundle: Path, backend: str) -> Facts:
    """Compare a bundle's files with its manifest, run its conformance vectors and large images; return facts, one line each.

    Raises ModelError at the first disagreement, and for a model that is not a bundle.
    """
    from rarecli.core.engines.conformance import verify_bundle
    from rarecli.core.engines.model_files import find_model
    from rarecli.core.engines.open_model import open_model, open_reference

    files = find_model(bundle)
    if files.bundle is None:
        raise ModelError("only a bundle can be verified", path=bundle, found="a run", remedy="rare export makes a bundle")
    rules, runner = open_model(bundle, backend)
    with runner, open_reference(bundle, runner.backend) or nullcontext() as reference:
        return {"kind": "bundle", "name": rules.spec.name, "verified": verify_bundle(files.bundle, runner, reference)}


def _describe_path(path: Path, model: Path | None = None, series: str | None = None) -> Facts:
    """Describe a path, or a built-in model by its name, as `info` does without `verify`.

    Raises DataError for anything else.
    """
    if not path.exists():
        return _built_in(path)
    try:
        return _describe(path, model, series)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("the folder holds JSON that rare did not write", path=path, found=repr(error)) from error


def _describe(path: Path, model: Path | None, series: str | None) -> Facts:
    if path.is_file():
        if is_scan(path):
            return _scan(path, model) if not is_dicom(path) else _dicom(path, model, series)
        if path.suffix == ".safetensors" and (path.parent / "run.json").is_file():
            return _run(path.parent) | {"kind": f"weights of a run, {path.name}"}
        raise DataError("unknown kind of file", path=path, expected="a scan, the weights of a run, or a folder")
    if (path / "prepared.json").is_file():
        return _prepared(path)
    if (path / "run.json").is_file():
        return _run(path)
    if (path / "manifest.json").is_file():
        return _bundle(path)
    if (path / "summary.json").is_file():
        return _scores(path)
    if not (path / "dataset.json").is_file():
        if scan_files(path):
            return _scans(path)
        if not (path / "images").is_dir() and is_dicom_folder(path):
            return _dicom(path, model, series)
    return _dataset(path)


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
        "shape": f"{_times(volume.shape)} voxels, {counted(volume.num_channels, 'channel')}",
        "spacing": f"{_times(volume.spacing_mm)} mm",
        "orientation": volume.orientation,
        "field of view": f"{_times(np.array(ras.shape) * ras.spacing_mm)} mm (right x anterior x superior)",
        "intensity": f"{volume.data.min():g} to {volume.data.max():g}, mean {volume.data.mean():g}",
    }
    values = np.unique(volume.data)
    if len(values) <= 20 and np.array_equal(values, np.rint(values)):
        facts["values"] = f"{', '.join(f'{value:g}' for value in values)} (labels?)"
    if model is not None:
        from rarecli.core.engines.model_files import find_model

        rules = find_model(model).rules
        way = rules.route(ras.spacing_mm)
        facts["route"] = f"{entry_text(way.entry)} of {rules.spec.name} ({way.reason})"
    return facts


def _dataset(path: Path) -> Facts:
    dataset = open_dataset(path)
    return {
        "kind": f"dataset, {dataset.layout}",
        "name": dataset.name,
        "cases": f"{len(dataset.cases)}, {dataset.cases[0].name} to {dataset.cases[-1].name}",
        "channels": ", ".join(dataset.channel_names or ("not declared",)),
        "labels": [f"{value} {name}" for value, name in (dataset.label_names or {}).items()] or "not declared",
    }


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
        "trained spacing": f"{_times(plan.spacing_mm)} mm",
        "patch": f"{_times(plan.patch_size)} voxels" + (", every case of this shape" if plan.fixed_shape else ""),
        "levels": str(plan.num_levels),
        "normalisation": plan.normalisation.kind,
        "routing plan": [f"depth {depth}: {counted(count, 'case')}" for depth, count in enumerate(index.routing_plan)],
    }
    if index.failed:
        facts["failed"] = [f"{name}: {why}" for name, why in index.failed.items()]
    return facts


def _run(path: Path) -> Facts:
    info = load_run_info(path)
    num_epochs = len(list(json_lines(path / LOG)))
    facts: Facts = {"kind": "run"} | _model(info.spec)
    if info.started_from:
        facts["weights from"] = info.started_from
    facts["training"] = f"{num_epochs} of {counted(info.config.epochs, 'epoch')}, fold {info.config.fold}, targets {info.spec.targets}"
    facts["cases"] = f"{len(info.split['train'])} to train, {len(info.split['val'])} to validate"
    return facts


def _built_in(name: Path) -> Facts:
    from rarecli.core.engines.model_files import built_in_models

    models = built_in_models()
    if str(name) not in models:
        raise DataError("no such file or folder", path=name, expected=f"a path, or a built-in model: {', '.join(models)}")
    folder = models[str(name)]
    return _bundle(folder) | {"kind": "built-in model, a bundle", "card": str(folder / "README.md")}


def _bundle(path: Path) -> Facts:
    from rarecli.core.engines.bundle import Bundle

    bundle = Bundle(path)
    manifest = bundle.manifest
    facts: Facts = {"kind": "bundle"} | _model(manifest.spec)
    facts["precision"] = f"{manifest.precision}, opset {manifest.opset}"
    facts["engines"] = [
        f"{entry_text(e.entry)}: {e.file}, grid {_times(e.grid_spacing_mm)} mm, patch {_times(e.patch_shape)}, "
        f"divisors {_times(e.divisors)}, " + _agreement(e.parity) + (f"; TensorRT plan, {_agreement(e.plan.parity)}" if e.plan else "")
        for e in manifest.engines
    ]
    try:
        bundle.verify()
        facts["files"] = "all match the manifest"
    except RareError as error:
        facts["files"] = f"BROKEN: {error.problem} ({error.path})"
    return facts


def _agreement(parity: Parity | None) -> str:
    if parity is None:
        return "never run"
    return (
        f"within {max(parity.max_abs, parity.large_max_abs or 0):.1e} of PyTorch in {' and '.join(parity.runners)}, "
        f"{counted(parity.label_changes, 'label')} changed, "
        f"Dice at least {parity.min_dice:.4f}"
    )


def _model(spec: ModelSpec) -> Facts:
    network, plan = spec.network, spec.plan
    return {
        "name": spec.name,
        "network": f"{network.arch}, {counted(network.num_filters, 'filter')}, {counted(network.num_levels, 'level')}, "
        f"{counted(network.num_depths, 'depth')}, {'every axis at its own' if spec.per_axis else 'one for all axes'}",
        "channels": ", ".join(plan.channel_names),
        "labels": [f"{value} {name}" for value, name in zip(plan.label_values, plan.label_names, strict=True)],
        "routing": [f"depth {depth}: grid {_times(spec.grid_spacing_mm(isotropic(depth)))} mm" for depth in range(network.num_depths)],
    }


def _times(numbers: Any) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
