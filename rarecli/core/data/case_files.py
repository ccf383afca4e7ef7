"""Groups files of scans into cases by their names: one file per case, or one per channel; and folders of DICOM images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import DataError, some
from rarecli.core.imaging.formats.dicom_files import holds_dicom, is_dicom_file
from rarecli.core.imaging.formats.dicom_series import choose_stack
from rarecli.core.imaging.scan_files import SUFFIXES, is_dicom, is_scan

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def scans_in(folder: Path, num_channels: int | None = None) -> list[Case]:
    """Return the scans of a folder by name. Files CASE_0000, CASE_0001 ... are channels of one scan.

    num_channels: channels per scan, if known. With 1, files with such names are separate scans.
    Raises DataError for a folder without scans, and for missing or duplicate channels.
    """
    files = scan_files(folder)
    if not files:
        inside = [item for item in sorted(folder.iterdir()) if item.is_dir() and os.access(item, os.R_OK | os.X_OK) and scan_files(item)]
        raise DataError(
            "no scans in this folder",
            path=folder,
            found=f"files in its folders: {some(item.name for item in inside)}" if inside else None,
            expected=f"files named {_names(SUFFIXES)}, or DICOM images",
            remedy=f"give the one that holds the scans: {' or '.join(map(str, inside[:2]))}" if inside else None,
        )
    return _group(files, num_channels)


def label_files(folder: Path) -> list[Case]:
    """Return the label files of a folder by name, each as one case."""
    if not folder.is_dir():
        raise DataError("no such folder", path=folder, expected="a folder of label files")
    return one_each(scan_files(folder))


def one_each(files: Iterable[Path]) -> list[Case]:
    """Return one case per file. Raises DataError for two files with the same name."""
    cases = [Case(case_name(file), (file,)) for file in files]
    require_unique(cases)
    return cases


def scan_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are scans by their suffix, by name, without hidden files. Of a pair, the .hdr is returned.

    DICOM images are left out, though some scanners name them .img.
    """
    files = sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))
    names = {file.name for file in files}
    return [file for file in files if file.suffix != ".img" or not (file.with_suffix(".hdr").name in names or is_dicom(file))]


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder holds DICOM images, and no files that are scans by their suffix."""
    return path.is_dir() and not scan_files(path) and holds_dicom(path)


def find_scans(
    inputs: Sequence[Path], num_channels: int | None = None, series: str | None = None, resample_channels: bool = False
) -> list[Case]:
    """Return the cases to predict. Each input is a file, a folder of scans, or a folder or zip of DICOM images of one series.

    num_channels: the channels that the model takes. series: the UID of the series where there are several. resample_channels: see `Case`.
    Raises DataError for a missing file, a file that is no scan, and two scans with the same name, UsageError for several series.
    """
    files: list[Path] = []
    cases: list[Case] = []
    for path in inputs:
        if is_dicom_folder(path):
            cases.append(_dicom_case(path, series))
        elif path.is_dir():
            _require_no_dicom(path)
            cases += scans_in(path, num_channels)
        elif not path.exists():
            raise DataError("no such file", path=path, expected="a scan, or a folder of scans")
        elif not is_scan(path):
            raise DataError("not a scan", path=path, expected=f"a name ending in {_names(SUFFIXES)}, or DICOM")
        elif is_dicom(path):
            cases.append(_dicom_case(path, series))
        else:
            files.append(path)
    cases += _group(files, num_channels)
    require_unique(cases)
    return [replace(case, resample_channels=resample_channels) for case in cases]


def _require_no_dicom(folder: Path) -> None:
    """Raise DataError if a folder of scans also holds DICOM images: which are meant is not known."""
    scans = set(scan_files(folder))
    for file in sorted(folder.iterdir()) if scans else []:
        if file not in scans and not file.name.startswith(".") and is_dicom_file(file):
            found = f"{file.name} beside {some(sorted(scan.name for scan in scans))}"
            remedy = "give the files that are meant, or move the others away"
            raise DataError("the folder holds DICOM images and other scans", path=folder, found=found, expected="either", remedy=remedy)


def case_name(path: Path) -> str:
    """Return the file name without the suffix of its format."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _dicom_case(path: Path, series: str | None) -> Case:
    """Return the case of a folder, zip or file of DICOM images. Raises UsageError for several series, before any is predicted."""
    choose_stack(path, series)
    own = path if path.name not in ("", "..") else path.resolve()  # the name that the user gave, also of a link
    return Case(own.name if path.is_dir() else own.stem, (own,), series=series)


def _names(suffixes: Sequence[str]) -> str:
    return ", ".join(suffixes)


def _group(files: Iterable[Path], num_channels: int | None) -> list[Case]:
    """Group files into cases. Four digits at the end of a name are a channel if some name ends in _0000, otherwise part of the name.

    A file without digits is a separate scan and does not affect the others. Patients named scan_0000, scan_0001 ... look like the
    channels of one scan; with `num_channels` 1 they are separate scans.
    """
    files = list(files)
    matches = {file: match for file in files if (match := CHANNEL.match(case_name(file)))}
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, match in matches.items():
        channels = groups.setdefault((file.parent, match["case"]), {})
        if (number := int(match["channel"])) in channels:
            raise DataError("a channel occurs twice", case=match["case"], path=file, found=channels[number].name)
        channels[number] = file
    several = num_channels == 1 and any(len(channels) > 1 for channels in groups.values())
    if several or not any(match["channel"] == "0000" for match in matches.values()):
        return one_each(files)
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
    cases += one_each(file for file in files if file not in matches)
    require_unique(cases)
    return cases


def require_unique(cases: Iterable[Case]) -> None:
    """Raise DataError if two cases have the same name."""
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                "two scans have the same name", case=case.name, path=case.images[0], found=seen[case.name], expected="different names"
            )
        seen[case.name] = case.images[0]
