"""Describe models: runs, bundles and built-in models; compare a bundle with its manifest."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarecli.core.config.geometry import entry_text
from rarecli.core.config.run_folder import LOG, load_run_info
from rarecli.core.errors import DataError, ModelError, RareError
from rarecli.core.imaging.scan_rules import ScanRules, rules_of
from rarecli.core.info.routing_picture import routing_picture
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.safe_text import json_lines
from rarecli.core.jobs.words import counted, times

if TYPE_CHECKING:
    from rarecli.core.engines.manifest import Parity

Facts = dict[str, Any]


def verify_model(bundle: Path, backend: str, reporter: Reporter) -> Facts:
    """Compare a bundle's files with its manifest, run its conformance vectors and large images; return facts, the verdict last.

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
        lines, verdict = verify_bundle(files.bundle, runner, reference, reporter)
        return {"kind": "bundle", "name": rules.spec.name, "verified": lines, "verdict": verdict}


def describe_run(path: Path) -> Facts:
    """Return facts about a run."""
    info = load_run_info(path)
    num_epochs = len(list(json_lines(path / LOG)))
    facts: Facts = {"kind": "run"} | _model(rules_of(info.spec))
    if info.started_from:
        facts["weights from"] = info.started_from
    facts["training"] = f"{num_epochs} of {counted(info.config.epochs, 'epoch')}, fold {info.config.fold}, targets {info.spec.targets}"
    facts["cases"] = f"{len(info.split['train'])} to train, {len(info.split['val'])} to validate"
    return facts


def describe_built_in(name: Path) -> Facts:
    """Return facts about a built-in model. Raises DataError for any other name."""
    from rarecli.core.engines.model_files import built_in_models

    models = built_in_models()
    if str(name) not in models:
        raise DataError("no such file or folder", path=name, expected=f"a path, or a built-in model: {', '.join(models)}")
    folder = models[str(name)]
    return describe_bundle(folder) | {"kind": "built-in model, a bundle", "card": str(folder / "README.md")}


def describe_bundle(path: Path) -> Facts:
    """Return facts about a bundle and its files, which are compared with the manifest."""
    from rarecli.core.engines.bundle import Bundle

    bundle = Bundle(path)
    manifest = bundle.manifest
    facts: Facts = {"kind": "bundle"} | _model(manifest.rules)
    facts["precision"] = f"{manifest.precision}, opset {manifest.opset}" + ("" if manifest.conv_transpose else ", without ConvTranspose")
    facts["engines"] = [
        f"{entry_text(e.entry)}: {e.file}, grid {times(e.grid_spacing_mm)} mm, patch {times(e.patch_shape)}, "
        f"divisors {times(e.divisors)}, " + _agreement(e.parity) + (f"; TensorRT plan, {_agreement(e.plan.parity)}" if e.plan else "")
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


def _model(rules: ScanRules) -> Facts:
    spec = rules.spec
    network, plan = spec.network, spec.plan
    return {
        "name": spec.name,
        "network": f"{network.arch}, {counted(network.num_filters, 'filter')}, {counted(network.num_levels, 'level')}, "
        f"{counted(network.num_depths, 'depth')}{network.gateways_text}, "
        f"{'every axis at its own' if spec.per_axis else 'one for all axes'}",
        "channels": ", ".join(plan.channel_names),
        "labels": [f"{value} {name}" for value, name in zip(plan.label_values, plan.label_names, strict=True)],
        "routing": routing_picture(rules),
    }
