"""`rare convert`: convert files of the released RARE-UNet.

best_model.pth              -> a run, for predict, evaluate, export and --init
images/*.pt and masks/*.pt  -> a labelled dataset in the MSD layout

Decision: docs/decisions/0013-released-weights.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from rarecli.core.config import geometry, run_folder
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import Plan
from rarecli.core.config.run_folder import RunInfo
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.convert.upstream import Checkpoint, load_plain, read_checkpoint
from rarecli.core.data.cases import undeclared_name
from rarecli.core.data.prepared import open_prepared
from rarecli.core.errors import DataError, ModelError, UsageError, some
from rarecli.core.imaging.volume import Volume, require_finite, write_image, write_labels
from rarecli.core.jobs.files import write_json
from rarecli.core.jobs.folders import atomic_folder
from rarecli.core.jobs.outputs import require_folder_name
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.model import build_network, checkpoint
from rarecli.core.types import AnyArray, Shape, Triple
from rarecli.core.versions import installed_versions

_FOLDERS = (("images", "masks"), ("imagesTr", "labelsTr"), ("images", "labels"))
_MOST_CLASSES = 256


def convert(
    source: Path,
    output: Path,
    *,
    prepared: Path | None = None,
    spacing_mm: Triple | None = None,
    patch_size: Shape | None = None,
    name: str | None = None,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Convert a checkpoint into a run, or a folder of .pt cases into a dataset, whole or not at all. Return facts about it.

    spacing_mm: of the cases, or of the training cases of the checkpoint; neither file stores it; 1 mm by default.
    prepared: a prepared dataset; its plan (labels, channels, spacing, patch) becomes the plan of the run.
    Raises UsageError for an output that exists or options that do not apply to the source, ModelError for a file that is not a
    RARE-UNet checkpoint, DataError for broken cases.
    """
    require_folder_name(output)
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError("the output exists", path=output, remedy="choose another -o, or remove it")
    if source.is_dir() and not (source / "best_model.pth").is_file():
        if prepared or patch_size:
            raise UsageError(
                "--prepared and --patch-size apply only to a checkpoint", path=source, found="a folder of cases", remedy="leave them out"
            )
        return _convert_cases(source, output, spacing_mm or (1.0, 1.0, 1.0), name, reporter)
    file = source / "best_model.pth" if source.is_dir() else source
    return _convert_checkpoint(read_checkpoint(file), file, output, prepared, spacing_mm, patch_size, name, reporter)


def _convert_checkpoint(
    found: Checkpoint,
    file: Path,
    output: Path,
    prepared: Path | None,
    spacing_mm: Triple | None,
    patch_size: Shape | None,
    name: str | None,
    reporter: Reporter,
) -> dict[str, Any]:
    if prepared:
        if spacing_mm or patch_size:
            raise UsageError("--prepared sets spacing and patch", field="prepared", remedy="leave --spacing and --patch-size out")
        plan = open_prepared(prepared).plan
        if (len(plan.channel_names), plan.num_classes) != (found.network.in_channels, found.network.num_classes):
            raise UsageError(
                "the prepared dataset has other channels or classes than the checkpoint",
                path=prepared,
                found=f"{len(plan.channel_names)} channels, {plan.num_classes} classes",
                expected=f"{found.network.in_channels} channels, {found.network.num_classes} classes",
            )
    else:
        plan = _plan(found, file, spacing_mm or (1.0, 1.0, 1.0), patch_size, reporter)
    network = found.network
    spec = ModelSpec(name=name or plan.dataset, plan=plan, network=network, targets="paper")
    origin = file.name + (f", epoch {found.epoch}" if found.epoch else "")
    info = RunInfo(
        spec=spec,
        config=_train_config(network, found.epoch),
        split={"train": [], "val": []},
        versions=installed_versions(("rare-unet", "torch")),
        started_from=origin,
    )
    built = build_network(network)
    checkpoint.put_weights(built, found.weights, file)
    with atomic_folder(output) as folder:
        checkpoint.save_weights(folder / run_folder.WEIGHTS, built.state_dict(), {"converted_from": origin})
        run_folder.save_run_info(folder, info)
    return {
        "kind": "run",
        "path": str(output),
        "network": network.model_dump(),
        "num_parameters": sum(parameter.numel() for parameter in built.parameters()),
        "spacing_mm": list(plan.spacing_mm),
        "patch_size": list(plan.patch_size),
        "epoch": found.epoch,
    }


def _plan(found: Checkpoint, file: Path, spacing_mm: Triple, patch_size: Shape | None, reporter: Reporter) -> Plan:
    shape = patch_size or found.setting("dataset", "target_shape")
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UsageError(
            "the checkpoint does not state its patch shape",
            path=file,
            field="dataset.target_shape",
            found=shape,
            remedy="give --patch-size X,Y,Z",
        )
    levels = found.network.num_levels
    step, least = geometry.patch_step(levels)
    x, y, z = (max(least, math.ceil(size / step) * step) for size in shape)
    if (x, y, z) != tuple(shape):
        reporter.warn(f"{levels} levels need a patch of {x} x {y} x {z}, not {' x '.join(map(str, shape))}: scans are padded to it")
    classes = found.network.num_classes
    try:
        return Plan(
            dataset=str(found.setting("dataset", "name") or file.stem),
            channel_names=tuple(f"channel {index}" for index in range(found.network.in_channels)),
            label_names=tuple(undeclared_name(value) for value in range(classes)),
            label_values=tuple(range(classes)),
            spacing_mm=spacing_mm,
            patch_size=(x, y, z),
            num_levels=levels,
            fixed_shape=True,
        )
    except ValidationError as error:
        raise ModelError("the checkpoint does not describe a valid model", path=file, found=error.errors()[0]["msg"]) from error


def _train_config(network: NetworkConfig, epoch: int | None) -> TrainConfig:
    return TrainConfig(
        arch=network.arch,
        targets="paper",
        num_filters=network.num_filters,
        num_levels=network.num_levels,
        num_depths=network.num_depths,
        dropout=network.dropout,
        epochs=epoch if epoch and epoch > 0 else 1,
    )


def _convert_cases(source: Path, output: Path, spacing_mm: Triple, name: str | None, reporter: Reporter) -> dict[str, Any]:
    pairs = _pairs(source)
    affine = np.diag([*spacing_mm, 1.0])
    values = {0}
    channels: set[int] = set()
    with atomic_folder(output) as folder:
        for case, (image_file, labels_file) in reporter.track(pairs.items(), "convert", len(pairs)):
            image = _array(image_file, case)
            labels = _labels(labels_file, case)
            if image.ndim != 4 or labels.shape != image.shape[1:]:
                raise DataError(
                    "image and labels have different shapes",
                    case=case,
                    path=image_file,
                    found=f"image {tuple(image.shape)}, labels {tuple(labels.shape)}",
                    expected="(C, X, Y, Z) and (1, X, Y, Z)",
                )
            volume = Volume(image.astype(np.float32), affine)
            require_finite(volume, case=case, files=[image_file])
            values |= {int(value) for value in np.unique(labels)}
            channels.add(image.shape[0])
            write_image(folder / "imagesTr" / f"{case}.nii.gz", volume.data if len(image) > 1 else volume.data[0], volume)
            write_labels(folder / "labelsTr" / f"{case}.nii.gz", labels, volume)
        if len(channels) > 1:
            raise DataError("the cases differ in their number of channels", path=source, found=sorted(channels))
        write_json(
            folder / "dataset.json",
            {
                "name": name or source.resolve().name,
                "modality": {str(index): f"channel {index}" for index in range(channels.pop())},
                "labels": {str(value): undeclared_name(value) for value in sorted(values)},
                "numTraining": len(pairs),
                "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in pairs],
            },
        )
    return {"kind": "dataset", "path": str(output), "cases": len(pairs), "labels": sorted(values), "spacing_mm": list(spacing_mm)}


def _pairs(source: Path) -> dict[str, tuple[Path, Path]]:
    """Return the image file and the labels file of each case, by the name of the case."""
    for images, labels in _FOLDERS:
        files = sorted((source / images).glob("*.pt"))
        if not files or not (source / labels).is_dir():
            continue
        if missing := [file.name for file in files if not (source / labels / file.name).is_file()]:
            raise DataError("cases have no labels", path=source / labels, found=f"no {some(missing)}")
        names = [file.name.removesuffix(".pt").removesuffix(".nii") for file in files]
        return {name: (file, source / labels / file.name) for name, file in zip(names, files, strict=True)}
    raise DataError(
        "neither a checkpoint nor cases of RARE-UNet",
        path=source,
        found=", ".join(sorted(item.name for item in source.iterdir())[:8]) or "an empty folder",
        expected="best_model.pth, or images/CASE.nii.pt and masks/CASE.nii.pt",
    )


def _array(file: Path, case: str) -> AnyArray:
    tensor = load_plain(file, DataError)
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
        raise DataError("the file does not hold a plain tensor", case=case, path=file, found=type(tensor).__name__)
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _labels(file: Path, case: str) -> AnyArray:
    """Return the labels (X, Y, Z) as uint8."""
    labels = _array(file, case)
    labels = labels[0] if labels.ndim == 4 and labels.shape[0] == 1 else labels
    whole = np.rint(labels)
    if not np.array_equal(whole, labels) or whole.min(initial=0) < 0 or whole.max(initial=0) >= _MOST_CLASSES:
        raise DataError("the labels are not class values", case=case, path=file, expected="whole numbers from 0 to 255")
    return whole.astype(np.uint8)
