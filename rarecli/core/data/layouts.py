"""Opens datasets in the layouts that users have. The layout is detected from the files, never configured.

MSD           dataset.json with `modality` and `training`, imagesTr/, labelsTr/; channels in the fourth axis
nnU-Net raw   dataset.json with `channel_names`, imagesTr/CASE_0000.nii.gz (one file per channel), labelsTr/CASE.nii.gz
plain         images/ and labels/ with the same file names (either naming of channels)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rarecli.core.config.plan import Region
from rarecli.core.data.case_files import CHANNEL, case_name, one_each, require_unique, scan_files, scans_in
from rarecli.core.data.cases import Case
from rarecli.core.data.declared_labels import DeclaredLabels, read_labels_field, split_ignored
from rarecli.core.errors import DataError
from rarecli.core.imaging.scan_files import SUFFIXES
from rarecli.core.jobs.files import read_json
from rarecli.core.jobs.safe_text import is_inside


@dataclass(frozen=True)
class Dataset:
    """A folder of cases.

    label_names: names by the value in the files; None if the layout does not declare them. regions: unions of labels that are scored too.
    ignored_value: the value of voxels without annotation, if the dataset has an ignore label; the cases have it too.
    """

    root: Path
    layout: str
    name: str
    channel_names: tuple[str, ...] | None
    label_names: dict[int, str] | None
    cases: tuple[Case, ...]
    regions: tuple[Region, ...] = ()
    ignored_value: int | None = None


def open_dataset(root: Path, *, resample_channels: bool = False) -> Dataset:
    """Detect the layout of a labelled dataset and list its cases by name, without opening a scan. resample_channels: see `Case`.

    A scan without a labels file is a case without labels, as long as some case has them.
    Raises DataError for an unknown layout, missing scans, duplicate cases and paths that leave the folder.
    """
    dataset = _open(root)
    if not any(case.labels for case in dataset.cases):
        name = dataset.cases[0].name
        raise DataError("no scan has labels", path=root, expected=f"for each scan a labels file of its name, such as {name}.nii.gz")
    return replace(dataset, cases=tuple(replace(case, resample_channels=resample_channels) for case in dataset.cases))


def _open(root: Path) -> Dataset:
    if not root.is_dir():
        raise DataError("no such folder", path=root, expected="a dataset: MSD, nnU-Net raw, or images/ and labels/")
    description = root / "dataset.json"
    if description.is_file():
        content = read_json(description)
        if not isinstance(content, dict):
            raise DataError("not the description of a dataset", path=description, found=type(content).__name__, expected="an object")
        if "training" in content and "modality" in content:
            return _open_msd(root, content)
        if "channel_names" in content:
            return _open_nnunet(root, content)
        raise DataError(
            "the file describes an unknown layout",
            path=description,
            found=f"keys {', '.join(sorted(content)) or 'none'}",
            expected="`modality` and `training` (MSD) or `channel_names` (nnU-Net)",
        )
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        if (root / images).is_dir() and (root / labels).is_dir():
            files = scan_files(root / images)
            # digits at the end are part of the name if the labels files have them too
            named = files and any((root / labels / f"{case_name(files[0])}{suffix}").is_file() for suffix in SUFFIXES)
            cases = _pair(one_each(files) if named else scans_in(root / images), root / labels)
            _require_unicode(cases)
            return Dataset(root, "plain", root.resolve().name, None, None, cases)
    raise DataError(
        "no known layout",
        path=root,
        found=", ".join(sorted(item.name for item in root.iterdir())[:8]) or "an empty folder",
        expected="dataset.json (MSD or nnU-Net raw), or the folders images/ and labels/",
        remedy="rename the folder of scans to images and that of label files to labels, or link them: ln -s SCANS images",
    )


def _open_msd(root: Path, content: dict[str, Any]) -> Dataset:
    path = root / "dataset.json"
    channels = _names(content, "modality", path)
    labels = split_ignored(_names(content, "labels", path), path)
    entries = content["training"]
    if not isinstance(entries, list) or not entries:
        raise DataError("the dataset lists no training cases", path=path, field="training", found=entries)
    declared = content.get("numTraining")
    if declared is not None and declared != len(entries):
        raise DataError(
            "the number of cases differs from the declared one", path=path, field="numTraining", found=declared, expected=len(entries)
        )
    cases = []
    for entry in entries:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise DataError("a case needs `image` and `label`", path=path, field="training", found=entry)
        image, label = (_inside(root, entry[key], path) for key in ("image", "label"))
        cases.append(Case(case_name(image), _channel_files(image, len(channels)), label))
    return _finish(Dataset(root, "MSD", str(content.get("name", root.name)), tuple(channels.values()), labels.names, tuple(cases)), labels)


def _channel_files(image: Path, num_channels: int) -> tuple[Path, ...]:
    """Return the file of a case, or one file per channel if dataset.json says CASE and the files are CASE_0000, as in nnU-Net v1."""
    suffix = image.name.removeprefix(case_name(image))
    channels = tuple(image.with_name(f"{case_name(image)}_{number:04d}{suffix}") for number in range(num_channels))
    return channels if not image.exists() and channels[0].exists() else (image,)


def _open_nnunet(root: Path, content: dict[str, Any]) -> Dataset:
    path = root / "dataset.json"
    channels = _names(content, "channel_names", path)
    if (ending := content.get("file_ending", ".nii.gz")) not in SUFFIXES:
        raise DataError("the scans are in an unknown format", path=path, field="file_ending", found=ending, expected=" or ".join(SUFFIXES))
    labels = read_labels_field(content.get("labels"), path)
    if not (root / "imagesTr").is_dir():
        raise DataError("the folder is missing", path=root / "imagesTr", expected="CASE_0000.nii.gz, one file per channel")
    for file in scan_files(root / "imagesTr"):
        if not CHANNEL.match(case_name(file)):
            raise DataError("a scan's name has no channel number", path=file, expected="CASE_0000.nii.gz, one file per channel")
    cases = _pair(scans_in(root / "imagesTr"), root / "labelsTr")
    for case in cases:
        found = [int(match["channel"]) for file in case.images if (match := CHANNEL.match(case_name(file)))]
        if found != list(range(len(channels))):
            raise DataError(
                "the channels of a case are incomplete",
                case=case.name,
                path=root / "imagesTr",
                found=", ".join(file.name for file in case.images),
                expected=", ".join(f"{case.name}_{index:04d}.nii.gz ({name})" for index, name in channels.items()),
            )
    num = content.get("numTraining")
    if num is not None and num != len(cases):
        raise DataError("the number of cases differs from the declared one", path=path, field="numTraining", found=num, expected=len(cases))
    name = str(content.get("name", root.name))
    return _finish(Dataset(root, "nnU-Net raw", name, tuple(channels.values()), labels.names, cases), labels)


def _names(content: dict[str, Any], key: str, path: Path) -> dict[int, str]:
    """Return the mapping {"0": "name", ...} of dataset.json, by number."""
    try:
        return {int(number): str(name) for number, name in sorted(content[key].items(), key=lambda item: int(item[0]))}
    except (KeyError, AttributeError, TypeError, ValueError):
        raise DataError(
            "not the description of a dataset", path=path, field=key, found=content.get(key), expected='{"0": "name", ...}'
        ) from None


def _inside(root: Path, name: object, path: Path) -> Path:
    """Return a path of dataset.json. Raises DataError before opening if its text leaves the folder; links may lead anywhere (caches)."""
    if not isinstance(name, str):
        raise DataError("a path must be text", path=path, found=name)
    file = root / name
    try:
        inside = is_inside(name)
        if inside:
            file.lstat()
    except FileNotFoundError:
        pass  # reported once the cases are complete
    except PermissionError:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, too long, a loop of links
        raise DataError("a path is invalid", path=path, found=repr(name), expected="a relative path inside the folder") from error
    if not inside:
        raise DataError("a path leaves the dataset's folder", path=path, found=name, expected="a relative path inside it")
    return file


def _pair(cases: list[Case], labels: Path) -> tuple[Case, ...]:
    files = ((case, (labels / f"{case.name}{suffix}" for suffix in SUFFIXES)) for case in cases)
    return tuple(replace(case, labels=next((file for file in found if file.is_file()), None)) for case, found in files)


def _finish(dataset: Dataset, labels: DeclaredLabels) -> Dataset:
    """Return the dataset with the regions and the ignore label that it declares. Raises DataError for names and files that do not do."""
    require_unique(dataset.cases)
    _require_unicode(dataset.cases)
    for case in dataset.cases:
        for file in case.images:
            if not file.is_file():
                raise DataError(
                    "a file of the dataset is missing", case=case.name, path=file, remedy="correct dataset.json, or add the file"
                )
    found = (case.labels if case.labels and case.labels.is_file() else None for case in dataset.cases)
    cases = tuple(replace(case, labels=file, ignored_value=labels.ignored_value) for case, file in zip(dataset.cases, found, strict=True))
    return replace(dataset, cases=cases, regions=labels.regions, ignored_value=labels.ignored_value)


def _require_unicode(cases: Iterable[Case]) -> None:
    """Raise DataError for control characters and invalid Unicode in the name of a case, which JSON and safetensors cannot hold."""
    for case in cases:
        if any(character < " " or "\ud800" <= character <= "\udfff" for character in case.name):
            raise DataError(
                "the name of a case has invalid characters", case=ascii(case.name), path=case.images[0].parent, remedy="rename the file"
            )
