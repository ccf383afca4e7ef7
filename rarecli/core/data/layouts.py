"""Datasets as users have them: detected by what lies there, never configured.

MSD           dataset.json with `modality` and `training`, imagesTr/, labelsTr/; channels in the fourth axis
nnU-Net raw   dataset.json with `channel_names`, imagesTr/CASE_0000.nii.gz (one file per channel), labelsTr/CASE.nii.gz
plain         images/ and labels/ with the same file names (either naming of channels)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.imaging.volume import Volume, read_labels, read_volume, require_same_grid
from rarecli.core.jobs.files import read_json
from rarecli.core.types import AnyArray

_SUFFIXES = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Case:
    """One scan: its name, its file (or one per channel), its labels if there are any."""

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """A folder of cases. label_names maps the value in the files to a name; None if the layout does not declare it."""

    root: Path
    layout: str
    name: str
    channel_names: tuple[str, ...] | None
    label_names: dict[int, str] | None
    cases: tuple[Case, ...]


def open_dataset(root: Path) -> Dataset:
    """Detect the layout of a labelled dataset and list its cases by name, without opening a scan.

    Raises DataError for an unknown layout, missing files, duplicate cases and paths that leave the folder.
    """
    if not root.is_dir():
        raise DataError("there is no such folder", path=root, expected="a dataset: MSD, nnU-Net raw, or images/ and labels/")
    description = root / "dataset.json"
    if description.is_file():
        content = read_json(description)
        if not isinstance(content, dict):
            raise DataError("the file describes no dataset", path=description, found=type(content).__name__, expected="an object")
        if "training" in content and "modality" in content:
            return _open_msd(root, content)
        if "channel_names" in content:
            return _open_nnunet(root, content)
        raise DataError(
            "the file describes neither layout that is known",
            path=description,
            found=f"keys {', '.join(sorted(content)) or 'none'}",
            expected="`modality` and `training` (MSD) or `channel_names` (nnU-Net)",
        )
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        if (root / images).is_dir() and (root / labels).is_dir():
            files = _nifti_files(root / images)
            # digits at the end are part of the name if labels have them as well
            named = files and any((root / labels / f"{case_name(files[0])}{suffix}").is_file() for suffix in _SUFFIXES)
            cases = _pair(_one_each(files) if named else scans_in(root / images), root / labels)
            _require_unicode(cases)
            return Dataset(root, "plain", root.resolve().name, None, None, cases)
    raise DataError(
        "no known layout",
        path=root,
        found=", ".join(sorted(item.name for item in root.iterdir())[:8]) or "an empty folder",
        expected="dataset.json (MSD or nnU-Net raw), or the folders images/ and labels/",
    )


def scans_in(folder: Path) -> list[Case]:
    """The scans of a folder by name; files CASE_0000, CASE_0001 ... are channels of one scan if every file is named so."""
    files = _nifti_files(folder)
    if not files:
        raise DataError("no scans here", path=folder, expected="files named *.nii or *.nii.gz")
    return _group(files)


def label_files(folder: Path) -> list[Case]:
    """The label files of a folder by name, each a case of its own."""
    if not folder.is_dir():
        raise DataError("there is no such folder", path=folder, expected="a folder of label files")
    return _one_each(_nifti_files(folder))


def _one_each(files: Iterable[Path]) -> list[Case]:
    cases = [Case(case_name(file), (file,)) for file in files]
    _require_unique(cases)
    return cases


def _nifti_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(_SUFFIXES) and not file.name.startswith("."))


def find_scans(inputs: Sequence[Path]) -> list[Case]:
    """Cases for prediction: each input is a file, or a folder of scans."""
    files: list[Path] = []
    cases: list[Case] = []
    for path in inputs:
        if path.is_dir():
            cases += scans_in(path)
        elif not path.exists():
            raise DataError("there is no such file", path=path, expected="a scan, or a folder of scans")
        elif not path.name.endswith(_SUFFIXES):
            raise DataError("not a scan", path=path, expected="a name ending in .nii or .nii.gz")
        else:
            files.append(path)
    cases += _group(files)
    _require_unique(cases)
    return cases


def case_name(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def undeclared_name(value: int) -> str:
    """The name of a label in a layout that declares none."""
    return "background" if value == 0 else f"class {value}"


def read_image(case: Case, num_channels: int | None = None) -> Volume:
    """Read a case's scan; DataError if it has not `num_channels` channels."""
    volume = read_volume(case.images if len(case.images) > 1 else case.images[0], case=case.name)
    if num_channels is not None and volume.num_channels != num_channels:
        raise DataError(
            "the scan has another number of channels than the dataset declares",
            case=case.name,
            path=case.images[0],
            found=volume.num_channels,
            expected=num_channels,
        )
    return volume


def read_case(case: Case, label_values: Sequence[int], num_channels: int | None = None) -> tuple[Volume, Volume]:
    """Read a scan and its labels on the same grid; labels become class indices (uint8, (1, X, Y, Z)).

    Raises DataError for labels on another grid and for values that are not declared, with their counts.
    """
    image = read_image(case, num_channels)
    if case.labels is None:
        raise DataError("the case has no labels", case=case.name, path=case.images[0], expected="a file of labels")
    labels = read_labels(case.labels, case=case.name)
    require_same_grid(labels, image, "labels and scan lie on different grids", case=case.name, path=case.labels)
    return image, Volume(class_indices(labels.data, label_values, case.name, case.labels), labels.affine, labels.header)


def class_indices(labels: AnyArray, label_values: Sequence[int], case: str | None = None, path: Path | None = None) -> AnyArray:
    """Values of a labels file -> class indices, uint8. Raises DataError naming undeclared values and their counts."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < min(label_values) or highest > max(label_values):
        stray = set(np.unique(labels).tolist()) - set(label_values)
    else:  # a table is many times faster than sorting the voxels
        counts = np.bincount((labels - lowest).ravel())
        stray = {int(value) + lowest for value in np.flatnonzero(counts)} - set(label_values)
    if stray:
        raise DataError(
            "the labels have values that are not declared",
            case=case,
            path=path,
            found=", ".join(f"{value} ({int((labels == value).sum())} voxels)" for value in sorted(stray)),
            expected=", ".join(map(str, label_values)),
            remedy="declare them in dataset.json, or correct the labels",
        )
    table = np.zeros(highest - lowest + 1, dtype=np.uint8)
    for index, value in enumerate(label_values):
        if lowest <= value <= highest:
            table[value - lowest] = index
    indices: AnyArray = table[labels - lowest]
    return indices


def _open_msd(root: Path, content: dict[str, Any]) -> Dataset:
    path = root / "dataset.json"
    channels = _names(content, "modality", path)
    labels = _names(content, "labels", path)
    entries = content["training"]
    if not isinstance(entries, list) or not entries:
        raise DataError("the dataset lists no training cases", path=path, field="training", found=entries)
    declared = content.get("numTraining")
    if declared is not None and declared != len(entries):
        raise DataError(
            "the number of cases is not the declared one", path=path, field="numTraining", found=declared, expected=len(entries)
        )
    cases = []
    for entry in entries:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise DataError("a case needs `image` and `label`", path=path, field="training", found=entry)
        image, label = (_inside(root, entry[key], path) for key in ("image", "label"))
        cases.append(Case(case_name(image), (image,), label))
    return _finish(Dataset(root, "MSD", str(content.get("name", root.name)), tuple(channels.values()), labels, tuple(cases)))


def _open_nnunet(root: Path, content: dict[str, Any]) -> Dataset:
    path = root / "dataset.json"
    channels = _names(content, "channel_names", path)
    declared = content.get("labels")
    if not isinstance(declared, dict) or not all(isinstance(value, int) for value in declared.values()):
        raise DataError(
            "labels must map names to integers", path=path, field="labels", found=declared, remedy="region-based labels are not supported"
        )
    labels = {value: name for name, value in declared.items()}
    if len(labels) < len(declared):
        raise DataError("two labels have one value", path=path, field="labels", found=declared)
    if not (root / "imagesTr").is_dir():
        raise DataError("the folder is missing", path=root / "imagesTr", expected="CASE_0000.nii.gz, one file per channel")
    for file in _nifti_files(root / "imagesTr"):
        if not _CHANNEL.match(case_name(file)):
            raise DataError("a scan's name has no channel number", path=file, expected="CASE_0000.nii.gz, one file per channel")
    cases = _pair(scans_in(root / "imagesTr"), root / "labelsTr")
    for case in cases:
        found = [int(match["channel"]) for file in case.images if (match := _CHANNEL.match(case_name(file)))]
        if found != list(range(len(channels))):
            raise DataError(
                "the channels of a case are not complete",
                case=case.name,
                path=root / "imagesTr",
                found=", ".join(file.name for file in case.images),
                expected=", ".join(f"{case.name}_{index:04d}.nii.gz ({name})" for index, name in channels.items()),
            )
    num = content.get("numTraining")
    if num is not None and num != len(cases):
        raise DataError("the number of cases is not the declared one", path=path, field="numTraining", found=num, expected=len(cases))
    return _finish(Dataset(root, "nnU-Net raw", str(content.get("name", root.name)), tuple(channels.values()), labels, cases))


def _names(content: dict[str, Any], key: str, path: Path) -> dict[int, str]:
    """The mapping {"0": "name", ...} of dataset.json, by number."""
    try:
        return {int(number): str(name) for number, name in sorted(content[key].items(), key=lambda item: int(item[0]))}
    except (KeyError, AttributeError, TypeError, ValueError):
        raise DataError(
            "the file describes no dataset", path=path, field=key, found=content.get(key), expected='{"0": "name", ...}'
        ) from None


def _inside(root: Path, name: object, path: Path) -> Path:
    """A path of dataset.json, refused before opening if it leaves the folder."""
    if not isinstance(name, str):
        raise DataError("a path must be text", path=path, found=name)
    file = root / name
    try:
        inside = not Path(name).is_absolute() and file.resolve().is_relative_to(root.resolve())
        if inside:
            file.lstat()
    except FileNotFoundError:
        pass  # said when the cases are complete
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, too long, a loop of links
        raise DataError("a path is none", path=path, found=repr(name), expected="a relative path inside the folder") from error
    if not inside:
        raise DataError("a path leaves the dataset's folder", path=path, found=name, expected="a relative path inside it")
    return file


def _group(files: Iterable[Path]) -> list[Case]:
    """Cases of files. Only if every name ends in four digits and one of them in _0000 are these digits channels, and not part of a name."""
    files = list(files)
    matches = [_CHANNEL.match(case_name(file)) for file in files]
    if not all(matches) or not any(match and match["channel"] == "0000" for match in matches):
        return _one_each(files)
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, match in zip(files, matches, strict=True):
        assert match is not None
        channels = groups.setdefault((file.parent, match["case"]), {})
        if (number := int(match["channel"])) in channels:
            raise DataError("a channel is there twice", case=match["case"], path=file, found=channels[number].name)
        channels[number] = file
    for (folder, name), channels in groups.items():
        if missing := sorted(set(range(max(channels) + 1)) - channels.keys()):
            raise DataError(
                "a channel is missing",
                case=name,
                path=folder,
                found=", ".join(file.name for file in channels.values()),
                expected=", ".join(f"{name}_{number:04d}.nii.gz" for number in missing),
            )
    cases = [Case(name, tuple(file for _, file in sorted(channels.items()))) for (_, name), channels in groups.items()]
    _require_unique(cases)
    return cases


def _pair(cases: list[Case], labels: Path) -> tuple[Case, ...]:
    paired = []
    for case in cases:
        found = [labels / f"{case.name}{suffix}" for suffix in _SUFFIXES if (labels / f"{case.name}{suffix}").is_file()]
        if not found:
            raise DataError("the case has no labels", case=case.name, path=labels / f"{case.name}.nii.gz", found="no such file")
        paired.append(Case(case.name, case.images, found[0]))
    return tuple(paired)


def _finish(dataset: Dataset) -> Dataset:
    _require_unique(dataset.cases)
    _require_unicode(dataset.cases)
    for case in dataset.cases:
        for file in (*case.images, *([case.labels] if case.labels else [])):
            if not file.is_file():
                raise DataError(
                    "a file of the dataset is missing", case=case.name, path=file, remedy="correct dataset.json, or add the file"
                )
    return dataset


def _require_unicode(cases: Iterable[Case]) -> None:
    """Names of cases become names in JSON and in safetensors, which know nothing else."""
    for case in cases:
        if any(character < " " or "\ud800" <= character <= "\udfff" for character in case.name):
            raise DataError(
                "a case's name has characters that are none", case=ascii(case.name), path=case.images[0].parent, remedy="rename the file"
            )


def _require_unique(cases: Iterable[Case]) -> None:
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                "two scans have one name", case=case.name, path=case.images[0], found=seen[case.name], expected="different names"
            )
        seen[case.name] = case.images[0]
